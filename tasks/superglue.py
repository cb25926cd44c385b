"""SuperGLUE (Wang et al. 2019) in T5's text-to-text form: eight tasks and two diagnostic sets.

`super_glue_cb` begins with T5's task name ("cb hypothesis: ... premise: ..."), and
`taskless_super_glue_cb`, for prompts that stand in its place, does not. Fields are in alphabetical
order, but for WiC's, whose word comes last and whose positions T5 leaves out, and MultiRC's, whose
paragraph comes last. AX-b and AX-g are written as RTE, as T5 writes them. WSC and ReCoRD are in
`superglue_spans`.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from prompt_jax.metrics.glue import (
    matthews_corrcoef,
    multirc_answer,
    multirc_exact_match,
    multirc_f1,
)
from prompt_jax.metrics.text import accuracy, mean_class_f1
from prompt_jax.tasks.layouts import JSONL, Layout, Record, lines, pick
from prompt_jax.tasks.official import Benchmark, File, register

FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
HOME = "https://super.gluebenchmark.com/tasks"
VERSION = "SuperGLUE v2, TFDS 1.0.2"
FALSE_TRUE = ("False", "True")


def _benchmark(
    folder: str,
    fields: tuple[str, ...],
    labels: tuple[str | bool | int, ...],
    choices: tuple[str, ...],
    sizes: tuple[int, ...],
    licence: str,
    *,
    prefix: str | None = None,
    files: Mapping[str, str | File] = FILES,
    numbers: tuple[str, ...] = (),
    from_tfds: Callable[[Record], Record] = dict,
) -> Benchmark:
    name = folder.lower().replace("-", "")
    return Benchmark(
        prefix=prefix or name,
        fields=fields,
        labels=labels,
        choices=choices,
        folder=f"superglue/{folder}",
        files=files,
        tfds=f"super_glue/{name}:1.0.2",
        home=HOME,
        licence=licence,
        sizes=dict(zip(files, sizes, strict=True)),
        version=VERSION,
        numbers=numbers,
        from_tfds=from_tfds,
    )


# ---- MultiRC: one row per answer ----

MULTIRC_TEXTS = ("question", "answer", "paragraph")
MULTIRC_NUMBERS = ("idx/paragraph", "idx/question", "idx/answer")


def _without_tags(text: str) -> str:
    """MultiRC's text without its HTML, as T5 removes it."""
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


def multirc_rows(line: bytes, text: Sequence[str]) -> list[Record]:
    """A record per answer of each question of one passage; label 0 or 1, none in the test split."""
    (entry,) = JSONL.records(line, ())
    passage = pick(entry, "passage", dict)
    rows = []
    for question in pick(passage, "questions", list):
        for answer in pick(question, "answers", list):
            row: Record = {
                "question": _without_tags(pick(question, "question", str)),
                "answer": _without_tags(pick(answer, "text", str)),
                "paragraph": _without_tags(pick(passage, "text", str)),
                "idx": pick(answer, "idx", int),
            }
            ids = (pick(entry, "idx", int), pick(question, "idx", int), row["idx"])
            row |= dict(zip(MULTIRC_NUMBERS, ids, strict=True))
            rows.append(row | ({"label": answer["label"]} if "label" in answer else {}))
    return rows


def _multirc_example(example: Record) -> Record:
    """A TFDS example with the names of `multirc_rows`; idx is the answer's."""
    numbers = {f"idx/{key}": number for key, number in example["idx"].items()}
    texts = {key: _without_tags(example[key].decode()).encode() for key in MULTIRC_TEXTS}
    return {**texts, **numbers, "idx": example["idx"]["answer"], "label": example["label"]}


def _axb_example(example: Record) -> Record:
    return {**example, "premise": example["sentence1"], "hypothesis": example["sentence2"]}


MULTIRC_LINES = Layout(lines, multirc_rows)
CB_LABELS = ("entailment", "contradiction", "neutral")
RTE_LABELS = ("entailment", "not_entailment")
PAIR = ("hypothesis", "premise")

CB = _benchmark("CB", PAIR, CB_LABELS, CB_LABELS, (250, 56, 250), "research use")
COPA = _benchmark(
    "COPA",
    ("choice1", "choice2", "premise", "question"),
    (0, 1),
    ("choice1", "choice2"),
    (400, 100, 500),
    "BSD 2-Clause",
)
RTE = _benchmark("RTE", PAIR, RTE_LABELS, RTE_LABELS, (2490, 277, 3000), "research use")
WIC = _benchmark(
    "WiC",
    ("sentence1", "sentence2", "word"),
    (False, True),
    FALSE_TRUE,
    (5428, 638, 1400),
    "CC BY-NC 4.0",
)
BOOLQ = _benchmark(
    "BoolQ",
    ("passage", "question"),
    (False, True),
    FALSE_TRUE,
    (9427, 3270, 3245),
    "CC BY-SA 3.0",
)
MULTIRC = _benchmark(
    "MultiRC",
    MULTIRC_TEXTS,
    (0, 1),
    FALSE_TRUE,
    (27243, 4848, 9693),
    "research use",
    files={split: File(name, MULTIRC_LINES) for split, name in FILES.items()},
    numbers=MULTIRC_NUMBERS,
    from_tfds=_multirc_example,
)
AXB = _benchmark(
    "AX-b",
    PAIR,
    RTE_LABELS,
    RTE_LABELS,
    (1104,),
    "none stated; research",
    prefix="rte",
    files={"test": File("AX-b.jsonl", columns={"premise": "sentence1", "hypothesis": "sentence2"})},
    from_tfds=_axb_example,
)
AXG = _benchmark(
    "AX-g",
    PAIR,
    RTE_LABELS,
    RTE_LABELS,
    (356,),
    "CC BY 4.0 (Winogender)",
    prefix="rte",
    files={"test": "AX-g.jsonl"},
)

register("super_glue_cb", CB, [mean_class_f1(CB_LABELS), accuracy])
register("super_glue_copa", COPA, [accuracy])
register("super_glue_rte", RTE, [accuracy])
register("super_glue_wic", WIC, [accuracy])
register("super_glue_boolq", BOOLQ, [accuracy])
register("super_glue_multirc", MULTIRC, [multirc_f1, multirc_exact_match], multirc_answer)
register("super_glue_axb", AXB, [matthews_corrcoef(RTE_LABELS), accuracy])
register("super_glue_axg", AXG, [accuracy])
