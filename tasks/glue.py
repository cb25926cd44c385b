"""GLUE (Wang et al. 2018) in T5's text-to-text form: nine tasks and the diagnostic set AX.

`glue_sst2` begins with T5's task name ("sst2 sentence: ..."), `taskless_glue_sst2` does not. Fields
are in alphabetical order. STS-B's target is its score to the nearest 0.2, as text. Where the
official files of MNLI and QQP are absent, the rows that MetaICL (Min et al. 2022) drew from them
are read, if they are there: `tasks list` says of which splits.
"""

import dataclasses
from collections.abc import Callable, Mapping

from etils import epath

from prompt_jax.contents import read_bytes
from prompt_jax.errors import UserError
from prompt_jax.metrics.glue import f1_of, matthews_corrcoef, pearson_corrcoef, spearman_corrcoef
from prompt_jax.metrics.text import Metric, accuracy
from prompt_jax.tasks.layouts import (
    TSV,
    TSV_WHOLE_LINES,
    Record,
    decode,
    lines,
    metaicl,
    without_header,
)
from prompt_jax.tasks.official import Benchmark, File, find_path, register

HOME = "https://gluebenchmark.com/tasks"
FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
ENTAILED = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
PAIR = ("sentence1", "sentence2")


def _benchmark(
    folder: str,
    fields: tuple[str, ...],
    choices: tuple[str, ...],
    sizes: tuple[int, ...],
    licence: str,
    labels: tuple[str, ...] = ("0", "1"),
    files: Mapping[str, str | File | tuple[File, ...]] = FILES,
    note: str = "",
    score: str | None = None,
) -> Benchmark:
    name = folder.lower().replace("-", "")
    return Benchmark(
        prefix=name,
        fields=fields,
        labels=labels,
        choices=choices,
        folder=f"glue/{folder}",
        files=files,
        tfds=f"glue/{name}:2.0.0",
        home=HOME,
        licence=licence,
        sizes=dict(zip(files, sizes, strict=True)),
        version="GLUE of 2018, TFDS 2.0.0",
        note=note,
        score=score,
    )


# ---- MRPC: GLUE's files, or Microsoft's own with the list of pairs that GLUE set aside ----

MRPC_COLUMNS = {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}
MRPC_IDS = "dev_ids.tsv"


def _mrpc_ids(inside: bool) -> Callable[[epath.Path], Callable[[Record], bool]]:
    """Keeps the pairs that dev_ids.tsv lists (`inside`), or the others."""

    def keep(folder: epath.Path) -> Callable[[Record], bool]:
        path = find_path(folder / MRPC_IDS)
        if path is None:
            raise UserError(
                folder / MRPC_IDS, "no such file, and it splits MRPC's train file", f"see {HOME}"
            )
        listed = {tuple(decode(line).split("\t")) for _, line in lines(read_bytes(path))}
        return lambda record: ((record["#1 ID"], record["#2 ID"]) in listed) is inside

    return keep


def _mrpc(name: str, original: str, keep: Callable | None = None) -> tuple[File, ...]:
    test = {**MRPC_COLUMNS, "idx": "index"}
    columns = test if name == "test.tsv" else MRPC_COLUMNS
    return (
        File(name, columns=columns),
        File(f"msr_paraphrase_{original}.txt", TSV, MRPC_COLUMNS, keep=keep),
    )


MRPC_FILES = {
    "train": _mrpc("train.tsv", "train", _mrpc_ids(inside=False)),
    "validation": _mrpc("dev.tsv", "train", _mrpc_ids(inside=True)),
    "test": _mrpc("test.tsv", "test"),
}

# ---- MNLI and QQP: GLUE's files, or MetaICL's rows ----

MNLI_COLUMNS = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
AX_COLUMNS = {"premise": "sentence1", "hypothesis": "sentence2", "idx": "index"}
MNLI_ROWS = metaicl(("premise", "premise"), ("hypothesis", "hypothesis"))
MNLI_FILES = {
    "train": File("train.tsv", columns=MNLI_COLUMNS),
    "validation_matched": (
        File("dev_matched.tsv", columns=MNLI_COLUMNS),
        File("../MNLI_dev_matched.metaicl.jsonl", MNLI_ROWS),
    ),
    "validation_mismatched": File("dev_mismatched.tsv", columns=MNLI_COLUMNS),
    "test_matched": File("test_matched.tsv", columns=MNLI_COLUMNS),
    "test_mismatched": File("test_mismatched.tsv", columns=MNLI_COLUMNS),
}
DUPLICATE = ("not_duplicate", "duplicate")
QQP_COLUMNS = {"label": "is_duplicate"}
QQP_ROWS = metaicl(("question1", "question 1"), ("question2", "question 2"))
QQP_FILES = {
    "train": (
        File("train.tsv", TSV_WHOLE_LINES, QQP_COLUMNS),
        File("../QQP_train_sample.metaicl.jsonl", QQP_ROWS, labels=DUPLICATE),
    ),
    "validation": File("dev.tsv", TSV_WHOLE_LINES, QQP_COLUMNS),
    "test": File("test.tsv", TSV_WHOLE_LINES),
}

COLA_LINES = without_header("source", "label", "original", "sentence")
COLA_FILES = {
    "train": File("train.tsv", COLA_LINES),
    "validation": File("dev.tsv", COLA_LINES),
    "test": "test.tsv",
}

ACCEPTABLE = ("unacceptable", "acceptable")
EQUIVALENT = ("not_equivalent", "equivalent")
COLA = _benchmark(
    "CoLA",
    ("sentence",),
    ACCEPTABLE,
    (8551, 1043, 1063),
    "none stated; fair use of linguistics literature",
    files=COLA_FILES,
)
SST2 = _benchmark(
    "SST-2", ("sentence",), ("negative", "positive"), (67349, 872, 1821), "none stated; research"
)
MRPC = _benchmark(
    "MRPC", PAIR, EQUIVALENT, (3668, 408, 1725), "Microsoft research licence", files=MRPC_FILES
)
QQP = _benchmark(
    "QQP",
    ("question1", "question2"),
    DUPLICATE,
    (363849, 40430, 390965),
    "Quora's terms, non-commercial",
    files=QQP_FILES,
    labels=("0", "1"),
    note="MetaICL's 160 train pairs are read where train.tsv is absent",
)
STSB = _benchmark(
    "STS-B",
    PAIR,
    (),
    (5749, 1500, 1379),
    "CC BY-SA 4.0 and others, see its LICENSE.txt",
    labels=(),
    score="score",
)
MNLI = _benchmark(
    "MNLI",
    ("hypothesis", "premise"),
    NLI,
    (392702, 9815, 9832, 9796, 9847),
    "OANC, CC BY 3.0 and CC BY-SA 3.0 by genre",
    labels=NLI,
    files=MNLI_FILES,
    note="validation_matched also from MetaICL's JSONL; other splits from GLUE's files alone",
)
QNLI = _benchmark(
    "QNLI",
    ("question", "sentence"),
    ENTAILED,
    (104743, 5463, 5463),
    "CC BY-SA 4.0 (SQuAD)",
    labels=ENTAILED,
)
RTE = _benchmark("RTE", PAIR, ENTAILED, (2490, 277, 3000), "research use", labels=ENTAILED)
WNLI = _benchmark("WNLI", PAIR, ("not_entailment", "entailment"), (635, 71, 146), "CC BY 4.0 (WSC)")

AX = dataclasses.replace(
    _benchmark(
        "AX",
        ("hypothesis", "premise"),
        NLI,
        (1104,),
        "none stated; research",
        labels=NLI,
        files={"test": File("diagnostic.tsv", columns=AX_COLUMNS)},
        note="without labels",
    ),
    prefix="mnli",
)

TASKS: dict[str, tuple[Benchmark, list[Metric]]] = {
    "cola": (COLA, [matthews_corrcoef(ACCEPTABLE)]),
    "sst2": (SST2, [accuracy]),
    "mrpc": (MRPC, [f1_of("equivalent", "not_equivalent"), accuracy]),
    "qqp": (QQP, [f1_of("duplicate", "not_duplicate"), accuracy]),
    "stsb": (STSB, [pearson_corrcoef, spearman_corrcoef]),
    "mnli": (MNLI, [accuracy]),
    "qnli": (QNLI, [accuracy]),
    "rte": (RTE, [accuracy]),
    "wnli": (WNLI, [accuracy]),
    "ax": (AX, [matthews_corrcoef(NLI)]),
}
for _name, (_data, _metrics) in TASKS.items():
    register(f"glue_{_name}", _data, _metrics)
