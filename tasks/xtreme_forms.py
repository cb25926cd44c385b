"""XTREME's rows as text, and what its metrics compare.

mT5's forms (Xue et al. 2021, google-research/multilingual-t5) where it has them: "xnli: premise:
... hypothesis: ..." (but the labels are words, where mT5 writes 0, 1, 2), "paws sentence1: ...
sentence2: ..." with `paraphrase` or `different_meaning`, "question: ... context: ..." with blanks
around punctuation, and for PAN-X "tag: ..." answered by "PER: Marie Curie $$ LOC: Paris". XCOPA
has T5's form of COPA.

UDPOS, which mT5 has not, numbers the words: "udpos: 1 Al 2 - 3 Zaman" is answered by "1 PROPN 2
PUNCT 3 PROPN". A number anchors each tag to its word, so that a tag left out or said twice costs
one word and does not shift the rest, as with tags alone; and the answer does not copy the words,
which in most languages cost more pieces than the tag. Raman et al. 2022
(https://arxiv.org/abs/2203.08378) found anchored tags best for mT5 within and across languages;
their anchors are sentinels, of which there are 100 and which not every vocabulary writes as text.

The form by token is ToPro's (Ma et al. 2024, https://arxiv.org/abs/2401.16589): a row for each
word, "SENTENCE The pos tag of WORD is a kind of:", answered by ToPro's word for the tag.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from prompt_jax.metrics.tags import OUTSIDE, spans
from prompt_jax.tasks.layouts import Record, pick
from prompt_jax.tasks.questions import answer_of_context
from prompt_jax.tasks.rows import Row
from prompt_jax.tasks.xtreme_sets import PANX_TAGS, UPOS

NLI = ("entailment", "neutral", "contradiction")
PAWS = ("different_meaning", "paraphrase")
COPA = ("choice1", "choice2")
BLANKS = re.compile(r"[ \t\n\f\r]+")
BETWEEN_NAMES = " $$ "

# ---- classification ----


def _class_id(label: object, names: tuple[str, ...]) -> int:
    """The class id of a label: its name in a file, or the id itself."""
    if isinstance(label, int) and label in range(len(names)):
        return label
    if label not in names:
        raise ValueError(f"label {label!r} is none of {', '.join(names)}")
    return names.index(str(label))


def nli(record: Record) -> Iterator[Row]:
    """XNLI: "xnli: premise: ... hypothesis: ..."."""
    label = _class_id(record["label"], NLI)
    inputs = f"xnli: premise: {record['premise']} hypothesis: {record['hypothesis']}"
    yield {"inputs": inputs, "targets": NLI[label], "label": label}


def paws(record: Record) -> Iterator[Row]:
    """PAWS-X: "paws sentence1: ... sentence2: ..."."""
    label = record["label"]
    label = label if isinstance(label, int) else _class_id(label, ("0", "1"))
    inputs = f"paws sentence1: {record['sentence1']} sentence2: {record['sentence2']}"
    yield {"inputs": inputs, "targets": PAWS[label], "label": label}


def copa(record: Record) -> Iterator[Row]:
    """XCOPA: "copa choice1: ... choice2: ... premise: ... question: effect"."""
    label = _class_id(pick(record, "label", int), COPA)
    fields = ("choice1", "choice2", "premise", "question")
    inputs = " ".join(["copa", *(f"{key}: {pick(record, key, str)}" for key in fields)])
    yield {"inputs": inputs, "targets": COPA[label], "label": label}


# ---- questions ----


class _Padding(dict):
    """A table of `str.translate` that fills itself: blanks around what is not of a word."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        of_word = char in "_ \t\n\f\r" or unicodedata.category(char)[0] in "LMN"
        return self.setdefault(code, char if of_word else f" {char} ")


PADDING = _Padding()


@lru_cache(maxsize=64)  # the questions of one context follow each other
def pad_punctuation(text: str) -> str:
    """mT5's text of questions: blanks around punctuation and symbols of every script.

    >>> pad_punctuation("Où est-ce?")
    'Où est - ce ? '
    """
    return BLANKS.sub(" ", text.translate(PADDING))


def question(record: Record) -> Iterator[Row]:
    """XQuAD, MLQA, TyDiQA and SQuAD: "question: ... context: ..."; the first answer is the target.

    `answers` and `context` are as the data set has them: they are what is scored.

    A record marked `left_out` is of another language.
    """
    if record.get("left_out"):
        return
    answers = record["answers"]
    texts = answers["text"] if isinstance(answers, dict) else [text for text, _ in answers]
    if not texts:
        raise ValueError(f"question '{record['id']}' has no answers; take a split that has")
    asked, context = (pick(record, key, str) for key in ("question", "context"))
    padded = f"question: {pad_punctuation(asked)} context: {pad_punctuation(context)}"
    yield {
        "inputs": BLANKS.sub(" ", padded),
        "targets": pad_punctuation(texts[0]),
        "answers": list(texts),
        "context": context,
        "id": record["id"],
    }


answer_said = answer_of_context(pad_punctuation)


# ---- tags: the whole sentence ----


def _checked(record: Record, known: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(words, tags) of a sentence."""
    for tag in record["tags"]:
        if tag not in known:
            raise ValueError(f"tag {tag!r} is none of {', '.join(known)}")
    return record["words"], record["tags"]


def numbered(texts: list[str]) -> str:
    """Texts with their numbers before them.

    >>> numbered(["Al", "-", "Zaman"])
    '1 Al 2 - 3 Zaman'
    """
    return " ".join(f"{number} {text}" for number, text in enumerate(texts, start=1))


def parts_of_speech(record: Record) -> Iterator[Row]:
    """UDPOS: "udpos: 1 Al 2 - 3 Zaman" to "1 PROPN 2 PUNCT 3 PROPN"."""
    words, tags = _checked(record, UPOS)
    yield {"inputs": f"udpos: {numbered(words)}", "targets": numbered(tags)}


def tags_by_number(text: str, example: Mapping, is_target: bool = False) -> list[str]:
    """SeqIO's postprocessing of numbered tags: one for each word; O where none is said.

    The first tag of a number counts.
    """
    tags: dict[int, str] = {}
    for number, tag in re.findall(r"\b([0-9]{1,6}) +([^\s0-9]+)", text):
        tags.setdefault(int(number), tag)
    words = len(example["targets"].split()) // 2
    return [tags.get(number, OUTSIDE) for number in range(1, words + 1)]


def names(record: Record) -> Iterator[Row]:
    """PAN-X: "tag: Marie Curie in Paris" to "PER: Marie Curie $$ LOC: Paris"; "" if there are none.

    Names are the spans that seqeval reads.
    """
    words, tags = _checked(record, PANX_TAGS)
    named = [f"{kind}: {' '.join(words[a : b + 1])}" for kind, a, b in spans(tags)]
    yield {"inputs": f"tag: {' '.join(words)}", "targets": BETWEEN_NAMES.join(named)}


def names_said(text: str, example: Mapping, is_target: bool = False) -> list[tuple[str, str, int]]:
    """SeqIO's postprocessing of names: (kind, name, how often it was said before).

    A name that occurs twice has to be said twice. What is no "KIND: name" is a wrong name.
    """
    before: Counter[tuple[str, str]] = Counter()
    named = []
    for part in text.split(BETWEEN_NAMES.strip()):
        kind, _, name = part.strip().partition(":")
        pair = (kind.strip(), " ".join(name.split()))
        if any(pair):
            named.append((*pair, before[pair]))
            before[pair] += 1
    return named


# ---- tags: ToPro's row for each word ----

POS_WORDS = {
    "ADJ": "modification",
    "ADP": "position",
    "ADV": "verbal",
    "AUX": "auxiliar",
    "CCONJ": "link",
    "DET": "determine",
    "INTJ": "mode",
    "NOUN": "thing",
    "NUM": "number",
    "PART": "functional",
    "PRON": "reference",
    "PROPN": "name",
    "PUNCT": "punct",
    "SCONJ": "condition",
    "SYM": "symbol",
    "VERB": "verb",
    "X": "other",
}
ENTITY_WORDS = {
    "B-LOC": "location",
    "B-ORG": "organisation",
    "B-PER": "person",
    "I-LOC": "place",
    "I-ORG": "body",
    "I-PER": "name",
    "O": "other",
}


def by_token(asked: str, words_of: Mapping[str, str]) -> Callable[[Record], Iterator[Row]]:
    """The form of a row for each word: "SENTENCE The ASKED of WORD is a kind of:".

    Each has its `tag`, and `sentence`, the number of the sentence, from `number_sentences`.
    """

    def form(record: Record) -> Iterator[Row]:
        words, tags = _checked(record, tuple(words_of))
        sentence = " ".join(words)
        for at, (word, tag) in enumerate(zip(words, tags, strict=True)):
            inputs = f"{sentence} The {asked} of {word} is a kind of:"
            yield {"inputs": inputs, "targets": words_of[tag], "tag": tag, "word": at}

    return form


def by_window(words_of: Mapping[str, str]) -> Callable[[Record], Iterator[Row]]:
    """As `by_token`, but short: "WORD in: LEFT WORD RIGHT", its neighbours alone."""

    def form(record: Record) -> Iterator[Row]:
        words, tags = _checked(record, tuple(words_of))
        for at, (word, tag) in enumerate(zip(words, tags, strict=True)):
            inputs = f"{word} in: {' '.join(words[max(at - 1, 0) : at + 2])}"
            yield {"inputs": inputs, "targets": words_of[tag], "tag": tag, "word": at}

    return form


def number_sentences(rows: list[Row]) -> list[Row]:
    """The rows with the number of their sentence: each begins at word 0."""
    sentence = -1
    numbered_rows = []
    for row in rows:
        sentence += row["word"] == 0
        numbered_rows.append({**row, "sentence": sentence})
    return numbered_rows


def sentences(rows: list[Row]) -> int:
    """How many sentences the rows by word are of."""
    return sum(row["word"] == 0 for row in rows)


def tag_of_word(words_of: Mapping[str, str]) -> Callable[..., dict]:
    """SeqIO's postprocessing for `metrics_tags.grouped`: the tag whose word the text is, else O."""
    tags = {word: tag for tag, word in words_of.items()}

    def tag_of_word(text: str, example: Mapping, is_target: bool = False) -> dict:
        if is_target:
            return {"group": example["sentence"], "value": example["tag"]}
        return {"value": tags.get(text.strip(), OUTSIDE)}

    return tag_of_word
