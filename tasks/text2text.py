"""Data to text, summaries and questions: E2E, WebNLG, DART, DialogSum, SQuAD, and sets from TFDS.

Training rows are one for each reference; validation and test rows are one for each input, with all
its references in `answers`, of which the metrics take the best. Triples are written
"subject : property : object | ...". Summaries and SQuAD have T5's form; E2E, WebNLG and DART, which
T5 has not, begin with their name.
"""

import re
from collections.abc import Iterator

import seqio

from prompt_jax.metrics.generation import bleu, bleu_intl, rouge
from prompt_jax.metrics.qa import answers, squad
from prompt_jax.metrics.text import accuracy
from prompt_jax.tasks.layouts import DART, JSONL, SQUAD, WEBNLG, Record, comma_separated, pick
from prompt_jax.tasks.official import DataSet, File
from prompt_jax.tasks.questions import answer_of_context
from prompt_jax.tasks.rows import Row, register_rows, tfds_only

FOLDER = "text2text"

E2E = DataSet(
    folder=f"{FOLDER}/e2e",
    files={
        "train": File("trainset.csv", comma_separated()),
        "validation": File("devset.csv", comma_separated()),
        "test": File("testset_w_refs.csv", comma_separated()),
    },
    home="https://github.com/tuetschek/e2e-dataset",
    licence="CC BY-SA 4.0",
    sizes={"train": 42061, "validation": 547, "test": 630},
    version="challenge of 2017",
    note="training pairs; distinct meaning representations in the others",
)
WEBNLG_2017 = DataSet(
    folder=f"{FOLDER}/webnlg_challenge_2017",
    files={
        "train": File("train.json", WEBNLG),
        "validation": File("dev.json", WEBNLG),
        "test": File("test.json", WEBNLG),
    },
    home="https://gitlab.com/shimorina/webnlg-dataset (JSON as in microsoft/LoRA's examples)",
    licence="CC BY-NC-SA 4.0",
    sizes={"train": 18102, "validation": 870, "test": 1862},
    version="challenge of 2017",
    note="verbalisations marked good; training pairs, distinct triple sets in the others",
)
DART_1_1_1 = DataSet(
    folder=f"{FOLDER}/dart",
    files={
        "train": File("dart-v1.1.1-full-train.json", DART),
        "validation": File("dart-v1.1.1-full-dev.json", DART),
        "test": File("dart-v1.1.1-full-test.json", DART),
    },
    home="https://github.com/Yale-LILY/dart/tree/master/data/v1.1.1",
    licence="MIT",
    sizes={"train": 62659, "validation": 2721, "test": 4159},
    version="1.1.1",
    note="it includes E2E and WebNLG; training pairs, distinct triple sets in the others",
)
DIALOGSUM = DataSet(
    folder=f"{FOLDER}/dialogsum",
    files={
        "train": File("dialogsum.train.jsonl", JSONL),
        "validation": File("dialogsum.dev.jsonl", JSONL),
        "test": File("dialogsum.test.jsonl", JSONL),
    },
    home="https://github.com/cylnlp/dialogsum",
    licence="CC BY-NC-SA 4.0",
    sizes={"train": 12460, "validation": 500, "test": 500},
    version="1.0",
    note="three references in the test split",
)


# ---- forms: a record to rows of one reference each ----


def pairs(inputs: str, references: list[str]) -> Iterator[Row]:
    """A row for each reference of one input; `answers` are all of them."""
    for text in references:
        yield {"inputs": inputs, "targets": text, "answers": references}


def meaning_to_text(record: Record) -> Iterator[Row]:
    """E2E: "meaning: name[Alimentum], area[city centre]"."""
    yield from pairs(f"meaning: {pick(record, 'mr', str)}", [pick(record, "ref", str)])


def triples_to_text(record: Record) -> Iterator[Row]:
    """WebNLG and DART: "triples: Aarhus : leaderName : Jacob_Bundsgaard | ..."."""
    triples = " | ".join(" : ".join(triple) for triple in record["triples"])
    yield from pairs(f"triples: {triples}", record["texts"])


def summary_of(text: str, *summaries: str):
    """The form of a summary: the text itself, with the summaries that are there as references."""

    def form(record: Record) -> Iterator[Row]:
        references = [pick(record, key, str) for key in summaries if key in record]
        if not references:
            raise ValueError(f"no field '{summaries[0]}'; there are {', '.join(record)}")
        yield from pairs(pick(record, text, str), references)

    return form


def pad_punctuation(text: str) -> str:
    """T5's SQuAD text: blanks around ASCII punctuation, every run of blanks as one.

    >>> pad_punctuation("Where's it?")
    "Where ' s it ? "
    """
    return re.sub(r"\s+", " ", re.sub(r"([!-/:-@\[-`{-~])", r" \1 ", text))


def question(record: Record) -> Iterator[Row]:
    """SQuAD and MRQA: "question: ... context: ..."; the first answer is the target."""
    answers = list(record["answers"])
    if not answers:
        raise ValueError("a question without answers")
    asked, context = (pick(record, key, str) for key in ("question", "context"))
    padded = f"question: {pad_punctuation(asked)} context: {pad_punctuation(context)}"
    yield {
        "inputs": re.sub(r"\s+", " ", padded),
        "targets": pad_punctuation(answers[0]),
        "answers": answers,
        "context": context,
    }


answer_said = answer_of_context(pad_punctuation)


def squad_question(record: Record) -> Iterator[Row]:
    """A question of the official file, whose answers have their place beside them, or of TFDS."""
    answers = record["answers"]
    texts = answers["text"] if isinstance(answers, dict) else [text for text, _ in answers]
    yield from question({**record, "answers": texts})


# ---- evaluation on distinct inputs ----


def one_per_input(rows: list[Row], split: str) -> list[Row]:
    """The rows of `train` as they are; of another split, one for each input with all references."""
    if split == "train":
        return rows
    merged: dict[str, Row] = {}
    for row in rows:
        first = merged.setdefault(row["inputs"], {**row, "answers": []})
        first["answers"] += [text for text in row["answers"] if text not in first["answers"]]
    return [{**row, "idx": number} for number, row in enumerate(merged.values())]


WRITTEN = [bleu, bleu_intl, rouge]
for _name, _data, _form, _prefix, _metrics in (
    ("e2e_nlg", E2E, meaning_to_text, "e2e", WRITTEN),
    ("web_nlg", WEBNLG_2017, triples_to_text, "webnlg", WRITTEN),
    ("dart", DART_1_1_1, triples_to_text, "dart", WRITTEN),
    (
        "dialogsum",
        DIALOGSUM,
        summary_of("dialogue", "summary", "summary1", "summary2", "summary3"),
        "summarize:",
        [rouge],
    ),
):
    register_rows(_name, _data, _form, _metrics, _prefix, answers, one_per_input)

# ---- SQuAD, and what TFDS alone hands out ----

SQUAD_1_1 = DataSet(
    folder="squad",
    files={
        "train": File("train-v1.1.json", SQUAD),
        "validation": File("dev-v1.1.json", SQUAD),
    },
    tfds="squad/v1.1:3.0.0",
    home="https://rajpurkar.github.io/SQuAD-explorer",
    licence="CC BY-SA 4.0",
    sizes={"train": 87599, "validation": 10570},
    version="1.1",
)
register_rows("squad", SQUAD_1_1, squad_question, [squad], "", answer_said)

OPEN_MRQA = {
    "squad": (86588, 10507),
    "news_qa": (74160, 4212),
    "trivia_qa": (61688, 7785),
    "search_qa": (117384, 16980),
    "hotpot_qa": (72928, 5901),
    "natural_questions": (104071, 12836),
}
HELD_MRQA = {
    "bio_asq": 1504,
    "drop": 1503,
    "duo_rc": 1501,
    "race": 674,
    "relation_extraction": 2948,
    "textbook_qa": 1503,
}
ANLI = {"r1": (16946, 1000, 1000), "r2": (45460, 1000, 1000), "r3": (100459, 1200, 1200)}
ALL = ("train", "validation", "test")
NLI = ("entailment", "neutral", "contradiction")


def anli_pair(record: Record) -> Iterator[Row]:
    """ANLI: "hypothesis: ... premise: ..." as T5 writes MNLI; TFDS calls the premise context."""
    inputs = f"hypothesis: {record['hypothesis']} premise: {record['context']}"
    yield {"inputs": inputs, "targets": NLI[record["label"]], "label": record["label"]}


def sized(*rows: int) -> dict[str, int]:
    """The rows of `train`, `validation` and, if given, `test`."""
    return dict(zip(ALL, rows, strict=False))


XSUM = tfds_only("xsum:1.1.0", sized(203577, 11305, 11301), "research use")
CNN_DM = tfds_only("cnn_dailymail:3.4.0", sized(287113, 13368, 11490), "research use")
for _name, _data, _form in (
    ("xsum", XSUM, summary_of("document", "summary")),
    ("cnn_dailymail", CNN_DM, summary_of("article", "highlights")),
):
    register_rows(_name, _data, _form, [rouge], "summarize:", answers)
_mrqa = {name: sized(*rows) for name, rows in OPEN_MRQA.items()}
_mrqa |= {name: {"test": rows} for name, rows in HELD_MRQA.items()}
for _name, _sizes in _mrqa.items():
    _data = tfds_only(f"mrqa/{_name}:1.0.0", _sizes, "each set's own")
    register_rows(f"mrqa_{_name}", _data, question, [squad], "", answer_said)
for _kind, _sets in (("in_domain", OPEN_MRQA), ("out_of_domain", HELD_MRQA)):
    seqio.MixtureRegistry.add(f"mrqa_{_kind}", [(f"mrqa_{name}", 1.0) for name in _sets])
for _round, _rows in ANLI.items():
    _data = tfds_only(f"anli/{_round}:0.1.0", sized(*_rows), "CC BY-NC 4.0")
    register_rows(f"anli_{_round}", _data, anli_pair, [accuracy], f"anli_{_round}", choices=NLI)
