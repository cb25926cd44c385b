"""`nano_multitask`: what the backbone `nano` is pretrained on beside plain text.

Its members are small supervised sets in short forms: the deciding text comes first and almost every
row has at most 64 pieces of nano's vocabulary. Longer rows are left out by their words; of a long
passage only a window is kept (`window_with`, `best_window`). Rates are min(rows, 8000) and, like
the members, do not depend on what the data folder holds: a missing file is an error. Two members
are word lists of installed packages: VADER's polarities and CLDR's kinds of names. Others are made
of plain text (`nano_text`, `nano_choose`); one of them, `text`, is TEXT_SHARE of the
mixture, so that the model does not unlearn to write. Every other row of a set with labels lists
them in its input, in words that vary, since a prompt can only ask for what an input has asked for.

No member is, or holds texts of, what nano is tested on: SST-2, SST-5, MR, TREC, AG News, CoLA, RTE,
CB, WiC, UD part-of-speech tags, E2E, XNLI, Empath's topics. So DART's rows from E2E are left out,
and those from WebNLG too, whose licence is non-commercial. MNLI, QNLI and DART train on the
development split, the only one that is small enough to be at hand: nano has seen it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import seqio

from prompt_jax.errors import UserError
from prompt_jax.tasks.glue import MNLI, MRPC, QNLI, STSB
from prompt_jax.tasks.layouts import SQUAD, TAGGED, Record, without_header
from prompt_jax.tasks.nano_choose import (
    ENTAILED,
    ENTAILMENT,
    FEELINGS,
    LIKENESS,
    NATURAL,
    TRUTH,
    after_rows,
    answer_rows,
    cloze_rows,
    feeling_rows,
    topic_rows,
    with_options,
)
from prompt_jax.tasks.nano_forms import (
    best_window,
    digest,
    entities,
    joined,
    plain_name,
    plain_property,
    window_with,
)
from prompt_jax.tasks.nano_shared import SHARED
from prompt_jax.tasks.nano_text import order_rows, same_rows, text_rows
from prompt_jax.tasks.official import Benchmark, DataSet, File, locate, read_records, read_split
from prompt_jax.tasks.quickstart import KINDS, Entry, cldr_kind_entries, vader_entries
from prompt_jax.tasks.quickstart import read_rows as quickstart_rows
from prompt_jax.tasks.superglue import BOOLQ, COPA, MULTIRC
from prompt_jax.tasks.text import RowsSource, add_task
from prompt_jax.tasks.text2text import DART_1_1_1

MAX_RATE = 8000
TEXT_SHARE = 0.15
TEXT = "en_wiki.txt.xz"
BOOKS = "en_books.txt.xz"
PASSAGE_WORDS = 33  # of inputs with a window of a passage, which 64 pieces hold
LEAST_WINDOW = 10  # words of a passage below which a row is left out

Row = dict[str, str]

PAWS_WIKI = DataSet(
    folder="xtreme/pawsx",
    files={
        "train": File("train_substitute-en.tsv", without_header("sentence1", "sentence2", "label"))
    },
    home="https://github.com/google-research-datasets/paws (PAWS-Wiki's dev set less PAWS-X's)",
    licence="free for any purpose (Google)",
)
PANX = DataSet(
    folder="xtreme/panx",
    files={"train": File("train-en.tsv", TAGGED)},
    home="https://github.com/google-research/xtreme",
    licence="CC BY-SA (Wikipedia)",
)
TYDIQA = DataSet(
    folder="xtreme/tydiqa/train",
    files={"train": File("tydiqa.goldp.en.train.json", SQUAD)},
    home="https://github.com/google-research-datasets/tydiqa",
    licence="Apache-2.0",
)


def in_t5s_form(data: Benchmark, split: str) -> Iterator[Row]:
    """The rows of a benchmark as T5 writes them."""
    for row in read_split(data, split):
        inputs = joined(data.prefix, **{field: row[field] for field in data.fields})
        yield {"inputs": inputs, "targets": _target(data, row)}


def _target(data: Benchmark, row: Record) -> str:
    return row["targets"] if data.score is not None else data.choices[row["label"]]


def passage_rows(data: Benchmark, split: str, passage: str) -> Iterator[Row]:
    """The rows of a benchmark with the passage last, cut to the window nearest to the rest."""
    for row in read_split(data, split):
        fields = {field: row[field] for field in data.fields if field != passage}
        head = joined(data.prefix, **fields)
        room = PASSAGE_WORDS - len(head.split()) - 1
        if room >= LEAST_WINDOW:
            window = best_window(row[passage], " ".join(fields.values()), room)
            yield {"inputs": f"{head} {passage}: {window}", "targets": _target(data, row)}


def records(data: DataSet, split: str) -> Iterator[Record]:
    place = locate(data, split)
    assert isinstance(place, tuple), "these sets have no TFDS builder here, so a file was found"
    for _, record in read_records(*place, (), data.home):
        yield record


def paws_rows(split: str) -> Iterator[Row]:
    """Is the second sentence a paraphrase of the first?"""
    for number, row in enumerate(records(PAWS_WIKI, split), start=1):
        if row["label"] not in ("0", "1"):
            name = PAWS_WIKI.wanted(PAWS_WIKI.candidates(split)[0])
            raise UserError(f"{name}: row {number}", f"has the label {row['label']!r}, not 0 or 1")
        inputs = joined("paws", sentence1=row["sentence1"], sentence2=row["sentence2"])
        targets = ("not_equivalent", "equivalent")[int(row["label"])]
        yield {"inputs": inputs, "targets": targets}


ENTITIES = {"PER": "person", "ORG": "organization", "LOC": "location"}


def ner_rows(split: str) -> Iterator[Row]:
    """A sentence to its names: "person: Marie d'Agoult; location: Paris", or "none"."""
    for record in records(PANX, split):
        names = [f"{ENTITIES[kind]}: {name}" for kind, name in entities(**record)]
        yield {"inputs": f"ner: {' '.join(record['words'])}", "targets": "; ".join(names) or "none"}


def qa_rows(split: str) -> Iterator[Row]:
    """A question and a window of its passage to the answer; long answers are left out."""
    for record in records(TYDIQA, split):
        text, start = record["answers"][0]
        head = joined("tydiqa", question=record["question"])
        room = PASSAGE_WORDS - len(head.split()) - 1
        window = window_with(record["context"], start, start + len(text), room)
        if window is not None and len(text.split()) <= 10:
            yield {"inputs": f"{head} context: {window}", "targets": " ".join(text.split())}


def question_rows(split: str) -> Iterator[Row]:
    """Questions to their answers, without the passage."""
    for record in records(TYDIQA, split):
        answer = " ".join(record["answers"][0][0].split())
        yield {"inputs": record["question"], "targets": answer}


def _plain_triple(triple: tuple[str, str, str]) -> str:
    subject, name, value = triple
    return f"{plain_name(subject)}, {plain_property(name)}, {plain_name(value)}"


def triple_rows(prefix: str, data: DataSet, split: str, leave_out: set[str]) -> Iterator[Row]:
    """Triples to a sentence: "dart: Aarhus, leader name, Jacob Bundsgaard; ..."."""
    for record in records(data, split):
        if record.get("source") not in leave_out:
            triples = "; ".join(map(_plain_triple, record["triples"]))
            for text in record["texts"]:
                yield {"inputs": f"{prefix}: {triples}", "targets": " ".join(text.split())}


def word_rows(prefix: str, entries: Callable[[], Iterable[Entry]], split: str) -> Iterator[Row]:
    """Words and names of an installed package to their class: "polarity word: happy"."""
    for row in quickstart_rows(entries, split):
        yield {"inputs": joined(prefix, word=row["inputs"]), "targets": row["targets"]}


@dataclass(frozen=True)
class Member:
    """A member of the mixture.

    Attributes:
      rows: how many its train split has; a test compares them with the files.
      read: split of the member -> its rows.
      words: rows with more words are left out.
      splits: split of the member -> split that is read.
      source: where the data are, and their licence.
      labels: those of the rows, and words that stand for them (`with_options`); None: no labels.
    """

    rows: int
    read: Callable[[str], Iterator[Row]]
    words: int
    splits: dict[str, str]
    source: str
    labels: Sequence[Sequence[str]] | None = None


BOTH = {"train": "train", "validation": "validation"}
TRAIN = {"train": "train"}
DEV = {"train": "validation"}


LEXICON = "lexicon of the installed vaderSentiment; licence: MIT"
WIKI = f"corpus/{TEXT} (English Wikipedia core articles); licence: CC BY-SA 3.0"


def of(data: DataSet, what: str = "") -> str:
    return f"{data.folder}; licence: {data.licence}{what}"


MEMBERS: dict[str, Member] = {
    "mnli": Member(
        7697,
        lambda s: in_t5s_form(MNLI, s),
        42,
        {"train": "validation_matched"},
        of(MNLI),
        ENTAILMENT,
    ),
    "mrpc": Member(1792, lambda s: in_t5s_form(MRPC, s), 40, BOTH, of(MRPC), LIKENESS),
    "stsb": Member(5446, lambda s: in_t5s_form(STSB, s), 46, BOTH, of(STSB)),
    "qnli": Member(3437, lambda s: in_t5s_form(QNLI, s), 42, DEV, of(QNLI), ENTAILED),
    "multirc": Member(
        20856, lambda s: passage_rows(MULTIRC, s, "paragraph"), 40, BOTH, of(MULTIRC), TRUTH
    ),
    "copa": Member(399, lambda s: in_t5s_form(COPA, s), 40, BOTH, of(COPA)),
    "boolq": Member(219, lambda s: passage_rows(BOOLQ, s, "passage"), 40, BOTH, of(BOOLQ), TRUTH),
    "paws": Member(1075, paws_rows, 38, TRAIN, of(PAWS_WIKI), LIKENESS),
    "panx": Member(19819, ner_rows, 30, TRAIN, of(PANX)),
    "tydiqa": Member(3364, qa_rows, 40, TRAIN, of(TYDIQA)),
    "dart": Member(
        413,
        lambda s: triple_rows("dart", DART_1_1_1, s, {"e2e", "webnlg"}),
        34,
        DEV,
        of(DART_1_1_1, "; without its rows from E2E and WebNLG"),
    ),
    "polarity": Member(
        5835,
        lambda s: word_rows("polarity", partial(vader_entries, 0.0), s),
        8,
        BOTH,
        LEXICON,
        FEELINGS,
    ),
    "kind": Member(
        1367,
        lambda s: word_rows("kind", cldr_kind_entries, s),
        12,
        BOTH,
        "CLDR names of the installed Babel; licence: Unicode-3.0",
        (KINDS,),
    ),
    "order": Member(4000, lambda s: order_rows(TEXT, 4000), 24, TRAIN, WIKI, NATURAL),
    "same": Member(4000, lambda s: same_rows(TEXT, 4000), 44, TRAIN, WIKI, LIKENESS[1:]),
    "topic": Member(7956, lambda s: topic_rows(TEXT, 8000), 40, TRAIN, WIKI),
    "cloze": Member(8000, lambda s: cloze_rows(TEXT, 8000), 40, TRAIN, WIKI),
    "after": Member(4000, lambda s: after_rows(TEXT, 4000), 40, TRAIN, WIKI),
    "feeling": Member(
        8000,
        lambda s: feeling_rows((TEXT, BOOKS), 8000),
        40,
        TRAIN,
        f"{WIKI}; corpus/{BOOKS}; licence: public domain; {LEXICON}",
    ),
    "answer": Member(3138, lambda s: answer_rows(question_rows(s)), 40, TRAIN, of(TYDIQA)),
    "text": Member(20000, lambda s: text_rows(TEXT, 20000), 40, TRAIN, WIKI),
}


def member_rows(member: Member, split: str) -> list[Row]:
    """The rows of a member's split that are neither too long nor SHARED; labels are listed."""
    rows = [
        row
        for row in member.read(member.splits[split])
        if len(row["inputs"].split()) <= member.words and digest(row["inputs"]) not in SHARED
    ]
    return rows if member.labels is None else list(with_options(rows, member.labels))


def register(members: Mapping[str, Member]) -> None:
    """A task `nano_NAME` for each."""
    for name, member in members.items():
        source = RowsSource(
            partial(member_rows, member),
            tuple(member.splits),
            member.source,
            "that of its source",
            version="that of its source",
        )
        add_task(f"nano_{name}", source, [], [], None)


def rates(members: Mapping[str, Member], text_share: float) -> dict[str, float]:
    """min(rows, MAX_RATE) of each member; `text` has `text_share` of all."""
    by_name = {name: float(min(member.rows, MAX_RATE)) for name, member in members.items()}
    others = sum(by_name.values()) - by_name["text"]
    return by_name | {"text": others * text_share / (1 - text_share)}


register(MEMBERS)
seqio.MixtureRegistry.add(
    "nano_multitask", [(f"nano_{name}", rate) for name, rate in rates(MEMBERS, TEXT_SHARE).items()]
)
