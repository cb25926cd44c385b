"""Tasks that nano answers without a prompt, on rows that it was not trained on.

They are members of its own third stage (`tasks/nano_mixture.py`), asked as there: the validation
split of a word list, or rows that plain text makes beyond those of the mixture. Others of its
members are left out, since nano is no better than the commonest answer on their held-out rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prompt_jax.tasks import nano_choose, nano_mixture, quickstart, text

ROWS = 300  # of a task
MIXTURE = "promot_untouched"
OPTIONS = "choose options: "
ENTRIES = {
    "polarity": partial(quickstart.vader_entries, 0.0),
    "kind": quickstart.cldr_kind_entries,
}


@dataclass(frozen=True)
class Untouched:
    """A task that is not trained on; `choices`: of every row alike, () where a row lists them."""

    name: str
    title: str
    read: Callable[[], list[dict]]
    choices: tuple[str, ...] = ()


def feeling_rows() -> list[dict]:
    """Sentences that no row of the mixture has."""
    made = list(nano_choose.feeling_rows((nano_mixture.TEXT, nano_mixture.BOOKS), 16000))
    seen = {_text(row) for row in made[:8000]}
    return [row for row in made[8000:] if _text(row) not in seen]


def _text(row: dict) -> str:
    return row["inputs"].rpartition("text: ")[2]


def word_rows(kind: str) -> list[dict]:
    """Every word of the validation split, without options."""
    return list(nano_mixture.word_rows(kind, ENTRIES[kind], "validation"))


def listed_rows() -> list[dict]:
    """The polarity of the words that stand behind options, as the mixture lists them."""
    rows = nano_mixture.member_rows(nano_mixture.MEMBERS["polarity"], "validation")
    return [row for row in rows if row["inputs"].startswith(OPTIONS)]


def after_rows() -> list[dict]:
    """Passages and words other than those of the mixture's rows."""
    made = list(nano_choose.after_rows(nano_mixture.TEXT, 8000))
    seen = {row["inputs"] for row in made[:4000]}
    return [row for row in made[4000:] if row["inputs"] not in seen]


UNTOUCHED = (
    Untouched("feeling", "sign of a sentence, options listed", feeling_rows),
    Untouched("listed", "polarity of a word, options listed", listed_rows),
    Untouched(
        "polarity", "polarity of a word", partial(word_rows, "polarity"), ("positive", "negative")
    ),
    Untouched("kind", "kind of a name, five classes", partial(word_rows, "kind"), quickstart.KINDS),
    Untouched("after", "the word that follows in a passage", after_rows),
)


def read(task: Untouched, split: str) -> list[dict]:
    """The first ROWS rows."""
    rows = task.read()[:ROWS]
    return [{key: row[key] for key in ("inputs", "targets")} for row in rows]


def register() -> None:
    """A SeqIO task `promot_NAME` for each, and their mixture."""
    import seqio

    from prompt_jax.metrics.text import accuracy

    text.import_bundled()
    if MIXTURE in seqio.MixtureRegistry.names():
        return
    for task in UNTOUCHED:
        source = text.RowsSource(partial(read, task), ("test",), f"{task.title}; as nano's mixture")
        text.add_task(f"promot_{task.name}", source, [], [accuracy], task.choices or None)
    seqio.MixtureRegistry.add(MIXTURE, [f"promot_{t.name}" for t in UNTOUCHED], default_rate=1.0)


def chance(rows: list[dict]) -> float:
    """Percent that the commonest answer gets, or a draw among the options where rows list them."""
    targets = [row["targets"] for row in rows]
    commonest = max(map(targets.count, {*targets})) / len(targets)
    listed = [row["inputs"] for row in rows if row["inputs"].startswith(OPTIONS)]
    counts = [len(inputs.partition(" text: ")[0].split(", ")) for inputs in listed]
    drawn = sum(1 / count for count in counts) / len(rows)
    return 100 * max(commonest, drawn)
