"""Questions with given answers: HellaSwag, WinoGrande, StoryCloze, CosmosQA, RACE.

The form is T5's of COPA: "hellaswag choice1: ... choice2: ... context: ..." with the target
`choice2`, so that one set of labels serves writing, ranking and the confusion table.
"""

from collections.abc import Callable, Iterator, Sequence

import seqio

from prompt_jax.metrics.text import UNLABELLED, accuracy
from prompt_jax.tasks.layouts import JSONL, Record, as_whole, comma_separated, pick, texts
from prompt_jax.tasks.official import DataSet, File
from prompt_jax.tasks.rows import Row, register_rows, tfds_only

LETTERS = "ABCD"


def names(count: int) -> tuple[str, ...]:
    """The labels of so many choices."""
    return tuple(f"choice{number}" for number in range(1, count + 1))


def asked(choices: Sequence[str], right: int, **fields: str) -> Iterator[Row]:
    """A row of one question; `right` is the number of its answer from 0, -1 where none is told."""
    if right not in range(-1, len(choices)):
        raise ValueError(f"answer number {right} of {len(choices)} choices")
    labels = names(len(choices))
    labelled = dict(zip(labels, choices, strict=True)) | fields
    inputs = " ".join(f"{name}: {text}" for name, text in labelled.items())
    yield {"inputs": inputs, "targets": UNLABELLED if right < 0 else labels[right], "label": right}


def hellaswag(record: Record) -> Iterator[Row]:
    """A row of the official file, which calls the context `ctx`, or of TFDS."""
    context = pick(record, "context" if "context" in record else "ctx", str)
    endings = texts(record, "endings")
    yield from asked(endings, as_whole(record, "label", -1), context=context)


def winogrande(record: Record) -> Iterator[Row]:
    """`answer` "1" or "2" in the official file, `label` 0 or 1 in TFDS."""
    right = as_whole(record, "label") if "label" in record else as_whole(record, "answer", 0) - 1
    choices = [pick(record, f"option{number}", str) for number in (1, 2)]
    yield from asked(choices, right, sentence=pick(record, "sentence", str))


def story_cloze(record: Record) -> Iterator[Row]:
    """A row of the CSV, whose answer is 1 or 2."""
    context = " ".join(pick(record, f"InputSentence{number}", str) for number in range(1, 5))
    choices = [pick(record, f"RandomFifthSentenceQuiz{number}", str) for number in (1, 2)]
    yield from asked(choices, as_whole(record, "AnswerRightEnding", 0) - 1, context=context)


def cosmos_qa(record: Record) -> Iterator[Row]:
    choices = [pick(record, f"answer{number}", str) for number in range(4)]
    fields = {key: pick(record, key, str) for key in ("context", "question")}
    yield from asked(choices, as_whole(record, "label", -1), **fields)


def race(record: Record) -> Iterator[Row]:
    """A row for each question of a passage; answers are letters."""
    asking = zip(record["questions"], record["options"], record["answers"], strict=True)
    for question, options, answer in asking:
        right = LETTERS.index(answer)
        yield from asked(options, right, question=question, article=record["article"])


HELLASWAG = DataSet(
    folder="hellaswag",
    files={
        split: File(f"hellaswag_{name}.jsonl", JSONL)
        for split, name in {"train": "train", "validation": "val", "test": "test"}.items()
    },
    tfds="hellaswag:1.1.0",
    home="https://github.com/rowanz/hellaswag/tree/master/data",
    licence="MIT",
    sizes={"train": 39905, "validation": 10042, "test": 10003},
    version="1.0",
    note="test without labels",
)
WINOGRANDE = DataSet(
    folder="winogrande_1.1",
    files={
        split: File(f"{name}.jsonl", JSONL)
        for split, name in {"train": "train_xl", "validation": "dev", "test": "test"}.items()
    },
    tfds="winogrande:1.2.0",
    tfds_splits={"train": "train_xl"},
    home="https://winogrande.allenai.org",
    licence="CC BY",
    sizes={"train": 40398, "validation": 1267, "test": 1767},
    version="1.1",
    note="train is XL; test without labels",
)
STORY_CLOZE = DataSet(
    folder="story_cloze",
    files={
        split: File(f"cloze_test_{name}__spring2016.csv", comma_separated())
        for split, name in {"validation": "val", "test": "test"}.items()
    },
    home="https://cs.rochester.edu/nlp/rocstories (on request)",
    licence="by agreement with its authors, research",
    sizes={"validation": 1871, "test": 1871},
    version="spring 2016",
)
COSMOS_QA = DataSet(
    folder="cosmosqa",
    files={
        "train": File("train.csv", comma_separated()),
        "validation": File("valid.csv", comma_separated()),
        "test": File("test.jsonl", JSONL),
    },
    tfds="cosmos_qa:1.0.0",
    home="https://github.com/wilburOne/cosmosqa/tree/master/data",
    licence="CC BY 4.0",
    sizes={"train": 25262, "validation": 2985, "test": 6963},
    version="1.0",
    note="test without labels",
)
SETS: dict[str, tuple[DataSet, Callable[[Record], Iterator[Row]], int]] = {
    "hellaswag": (HELLASWAG, hellaswag, 4),
    "winogrande": (WINOGRANDE, winogrande, 2),
    "story_cloze": (STORY_CLOZE, story_cloze, 2),
    "cosmos_qa": (COSMOS_QA, cosmos_qa, 4),
}
for _part, _rows in {"high": (62445, 3451, 3498), "middle": (25421, 1436, 1436)}.items():
    _sizes: dict[str, int] = dict(zip(("train", "validation", "test"), _rows, strict=True))
    _data = tfds_only(
        f"race/{_part}:2.0.0",
        _sizes,
        "non-commercial research",
        "sizes are questions",
        {"validation": "dev"},
    )
    SETS[f"race_{_part}"] = (_data, race, 4)

for _name, (_data, _form, _count) in SETS.items():
    register_rows(_name, _data, _form, [accuracy], _name, choices=names(_count))
seqio.MixtureRegistry.add("race", [("race_high", 62445.0), ("race_middle", 25421.0)])
