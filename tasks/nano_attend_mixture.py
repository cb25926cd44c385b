"""`nano_attend`: the mixture of nano's fourth stage, rows that what stands in front decides."""

from collections.abc import Iterator

import seqio

from prompt_jax.tasks.nano_attend import (
    asked_rows,
    classes_rows,
    polar_rows,
    subject_rows,
    texts_rows,
)
from prompt_jax.tasks.nano_forms import entities
from prompt_jax.tasks.nano_mixture import (
    MEMBERS,
    PANX,
    TRAIN,
    TYDIQA,
    Member,
    records,
    register,
)
from prompt_jax.tasks.nano_text import Row
from prompt_jax.tasks.official import read_split
from prompt_jax.tasks.superglue import BOOLQ, MULTIRC

SHARES = {"attend": 0.81, "tasks": 0.15, "text": 0.04}
TEACHER = "sentences of corpus/ with multilingual-e5-small's vectors; licence: that of each source"


def _names() -> dict[str, str]:
    return {name: kind for record in records(PANX, "train") for kind, name in entities(**record)}


def _answered() -> Iterator[tuple[str, str]]:
    for record in records(TYDIQA, "train"):
        yield record["question"], " ".join(record["answers"][0][0].split())
    for row in read_split(MULTIRC, "train"):
        if row["label"] == 1:
            yield row["question"], row["answer"].rstrip(".")


def _asked(split: str) -> Iterator[Row]:
    questions: list[str] = [row["question"] + "?" for row in read_split(BOOLQ, "validation")]
    return asked_rows(sorted(set(_answered())), questions, _names())


ATTEND = {
    "classes": Member(60000, lambda s: classes_rows(60000), 60, TRAIN, TEACHER),
    "texts": Member(30000, lambda s: texts_rows(30000), 60, TRAIN, TEACHER),
    "polar": Member(20000, lambda s: polar_rows(20000), 60, TRAIN, TEACHER),
    "subject": Member(20000, lambda s: subject_rows(20000), 40, TRAIN, TEACHER),
    "asked": Member(8000, _asked, 40, TRAIN, "TyDi QA, MultiRC, BoolQ, PAN-X"),
}
PARTS = {"classes": 0.45, "texts": 0.2, "polar": 0.2, "subject": 0.08, "asked": 0.07}

register(ATTEND)
_tasks = {name: min(member.rows, 3000) for name, member in MEMBERS.items() if name != "text"}
seqio.MixtureRegistry.add(
    "nano_attend",
    [
        *((f"nano_{name}", SHARES["attend"] * part) for name, part in PARTS.items()),
        *(
            (f"nano_{name}", SHARES["tasks"] * rows / sum(_tasks.values()))
            for name, rows in _tasks.items()
        ),
        ("nano_text", SHARES["text"]),
    ],
)
