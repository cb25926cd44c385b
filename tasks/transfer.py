"""SPoT's sources and targets (Vu et al. 2022, https://arxiv.org/abs/2110.07904), and T0's held-out.

The mixtures `spot_sources` (16 tasks, mixed by size up to 2^19, as T5 mixes), `spot_targets` (10)
and `t0_held_out` (11; Sanh et al. 2022, https://arxiv.org/abs/2110.08207) name their members, which
are tasks of other files but for C4, DocNLI, Yelp-2, CxC and DROP. A source is trained on by its own
name as well as by the mixture's.
"""

import csv
import io
import json
from collections.abc import Iterator

import seqio
from etils import epath

from prompt_jax.contents import read_bytes
from prompt_jax.errors import UserError, reading
from prompt_jax.metrics.glue import pearson_corrcoef, spearman_corrcoef
from prompt_jax.metrics.qa import answers, squad
from prompt_jax.metrics.text import accuracy
from prompt_jax.tasks import (  # noqa: F401 (the mixtures name their tasks)
    classification,
    glue,
    multiple_choice,
    superglue,
    superglue_spans,
    text2text,
)
from prompt_jax.tasks.layouts import Record, pick
from prompt_jax.tasks.official import DataSet, File, locate, score_text, source_of
from prompt_jax.tasks.rows import Row, register_rows, tfds_only
from prompt_jax.tasks.text import add_task

LARGEST_RATE = 2**19  # examples of one task that count in a mixture
SOURCES = {  # task: its training rows, as published
    "c4_prefix_lm": 364868892,
    "doc_nli": 942314,
    "yelp_polarity": 560000,
    "glue_mnli": 392702,
    "glue_qqp": 363849,
    "glue_qnli": 104743,
    "super_glue_record": 100730,
    "cxc": 44009,
    "squad": 87599,
    "drop": 77400,
    "glue_sst2": 67349,
    "winogrande": 40398,
    "hellaswag": 39905,
    "super_glue_multirc": 27243,
    "cosmos_qa": 25262,
    "race": 87866,
}
TARGETS = (
    "super_glue_boolq",
    "glue_cola",
    "glue_stsb",
    "super_glue_wic",
    "cr",
    "glue_mrpc",
    "glue_rte",
    "super_glue_wsc",
    "super_glue_copa",
    "super_glue_cb",
)
T0_HELD_OUT = (
    "anli_r1",
    "anli_r2",
    "anli_r3",
    "super_glue_cb",
    "super_glue_rte",
    "super_glue_copa",
    "hellaswag",
    "story_cloze",
    "winogrande",
    "super_glue_wic",
    "super_glue_wsc",
)

# ---- C4: the first half of a text is continued ----

PREFIX_WORDS = 256


def prefix_lm(record: Record) -> Iterator[Row]:
    """Up to PREFIX_WORDS words are the input, as many that follow the target."""
    words = pick(record, "text", str).split()[: 2 * PREFIX_WORDS]
    half = len(words) // 2
    if half:
        yield {"inputs": " ".join(words[:half]), "targets": " ".join(words[half:])}


C4 = tfds_only(
    "c4/en:3.1.0",
    {"train": 364868892, "validation": 364608},
    "ODC-BY and Common Crawl's terms",
    "read whole into memory: name a part of your own by --tasks_module for training",
)
register_rows("c4_prefix_lm", C4, prefix_lm, [], "")

# ---- DocNLI, Yelp-2, DROP ----

ENTAILED = ("not_entailment", "entailment")
POLARITY = ("negative", "positive")


def doc_nli(record: Record) -> Iterator[Row]:
    """ "doc_nli hypothesis: ... premise: ..."."""
    hypothesis, premise = (pick(record, key, str) for key in ("hypothesis", "premise"))
    inputs = f"hypothesis: {hypothesis} premise: {premise}"
    yield {"inputs": inputs, "targets": ENTAILED[record["label"]], "label": record["label"]}


def yelp(record: Record) -> Iterator[Row]:
    """ "yelp_polarity sentence: ..."."""
    inputs = f"sentence: {pick(record, 'text', str)}"
    yield {"inputs": inputs, "targets": POLARITY[record["label"]], "label": record["label"]}


def drop(record: Record) -> Iterator[Row]:
    """ "drop question: ... context: ..." with all validated answers; the first is the target."""
    texts = list(dict.fromkeys([record["answer"], *record["validated_answers"]]))
    inputs = f"question: {record['question']} context: {record['passage']}"
    yield {"inputs": inputs, "targets": texts[0], "answers": texts}


DOC_NLI = tfds_only(
    "doc_nli:1.0.0",
    {"train": 942314, "validation": 234258, "test": 267086},
    "none stated; research",
)
YELP = tfds_only("yelp_polarity_reviews:0.2.0", {"train": 560000, "test": 38000}, "Yelp's terms")
DROP = tfds_only(
    "drop:2.0.0",
    {"train": 77400, "validation": 9535},
    "CC BY-SA 4.0",
    tfds_splits={"validation": "dev"},
)
register_rows("doc_nli", DOC_NLI, doc_nli, [accuracy], "doc_nli", choices=ENTAILED)
register_rows("yelp_polarity", YELP, yelp, [accuracy], "yelp_polarity", choices=POLARITY)
register_rows("drop", DROP, drop, [squad], "drop", answers)

# ---- CxC: pairs of captions, whose texts are MS-COCO's ----

CAPTIONS = "captions_val2014.json"
CXC = DataSet(
    folder="cxc",
    files={"train": File("sts_val.csv"), "validation": File("sts_test.csv")},
    home="https://github.com/google-research-datasets/Crisscrossed-Captions/tree/master/data "
    f"(with MS-COCO's {CAPTIONS} beside it)",
    licence="CC BY 4.0; captions CC BY 4.0",
    sizes={"train": 44009, "validation": 44045},
    version="1.0",
    note="CxC has no training split: its validation pairs are train, its test pairs validation",
)


def cxc_rows(split: str) -> list[Row]:
    """ "cxc sentence1: ... sentence2: ..." with the score to the nearest 0.2, as STS-B."""
    found = locate(CXC, split)
    assert isinstance(found, tuple), "CxC has no TFDS builder here, so a file was found"
    path = found[1]
    captions = _captions(path.parent / CAPTIONS)
    rows = []
    with reading(path, f"get the file again from {CXC.home}") as place:
        lines = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        for place.line, cells in enumerate(lines, start=2):
            pair = [captions[int(cells[name].split(":")[-1])] for name in ("caption1", "caption2")]
            score = float(cells["agg_score"])
            inputs = f"cxc sentence1: {pair[0]} sentence2: {pair[1]}"
            row = {"inputs": inputs, "targets": score_text(score), "score": score}
            rows.append({**row, "idx": len(rows)})
    if not rows:
        raise UserError(path, "no rows", f"get the file again from {CXC.home}")
    return rows


def _captions(path: epath.Path) -> dict[int, str]:
    """{id of a caption: its text}."""
    if not path.is_file():
        raise UserError(
            path, "no such file, and it holds CxC's texts", "get it from https://cocodataset.org"
        )
    with reading(path, "get it again from https://cocodataset.org"):
        notes = json.loads(read_bytes(path))["annotations"]
        return {note["id"]: note["caption"] for note in notes}


add_task("cxc", source_of(CXC, cxc_rows), [], [pearson_corrcoef, spearman_corrcoef], None)

# ---- mixtures ----

SPOT = [(name, float(min(rows, LARGEST_RATE))) for name, rows in SOURCES.items() if name != "race"]
SPOT += [("race_high", 62445.0), ("race_middle", 25421.0)]  # a mixture does not hold mixtures
seqio.MixtureRegistry.add("spot_sources", SPOT)
seqio.MixtureRegistry.add("spot_targets", [(name, 1.0) for name in TARGETS])
seqio.MixtureRegistry.add("t0_held_out", [(name, 1.0) for name in T0_HELD_OUT])
