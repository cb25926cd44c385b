"""Rows whose input lists the answers to choose from, for the third stage of pretraining.

"choose options: sugar, army, music text: PASSAGE" to the one that fits. The words differ from row
to row, so what is learned is to read them and to weigh a text against them: a soft prompt that
stands where they stood can then say what is asked. `topic` asks for a word of the passage's
document, `cloze` for the word that stood at a blank, `feeling` for the sign of a sentence's words
in vaderSentiment's lexicon, `answer` for the answer of a question, `meaning` for a word of a line's
translation; `after` asks which word follows another, without options. None needs labels made for
it. What is drawn is a function of the row's number alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np

from prompt_jax.tasks.nano_text import Row, ntrex, passages, read_corpus
from prompt_jax.tasks.quickstart import vader_entries

PASSAGE = 24  # words of a passage
MOST_OPTIONS = 6
KEYWORDS = 12  # of a document
COMMON = 8  # documents that a keyword is in, at least
# Labels as their sets have them, then words that may stand for them.
FEELINGS = (
    ("negative", "positive"),
    ("bad", "good"),
    ("terrible", "great"),
    ("sad", "happy"),
    ("no", "yes"),
)
ENTAILMENT = (
    ("entailment", "neutral", "contradiction"),
    ("yes", "maybe", "no"),
    ("true", "unknown", "false"),
)
ENTAILED = (("entailment", "not_entailment"), ("yes", "no"), ("true", "false"))
TRUTH = (("False", "True"), ("no", "yes"), ("wrong", "right"))
NATURAL = (("natural", "changed"), ("good", "bad"), ("right", "wrong"), ("yes", "no"))
LIKENESS = (
    ("not_equivalent", "equivalent"),
    ("different", "same"),
    ("no", "yes"),
    ("unlike", "like"),
)


def choose(options: Sequence[str], text: str, target: str) -> Row:
    """The row that asks for one of `options`."""
    return {"inputs": f"choose options: {', '.join(options)} text: {text}", "targets": target}


def among(rng, right: str, others: Sequence[str], text: str) -> Row:
    """The row with `right` at a random place among one to five different `others`."""
    most = min(MOST_OPTIONS - 1, len(others))
    options = [*others[: int(rng.integers(1, most + 1))], right]
    return choose([options[i] for i in rng.permutation(len(options))], text, right)


def with_options(rows: Iterable[Row], words: Sequence[Sequence[str]]) -> Iterator[Row]:
    """Every other row of labels with its options listed, in any order and in any of the `words`.

    `words[0]` are the labels as `rows` have them, the others stand for them one by one.
    """
    for number, row in enumerate(rows):
        rng = np.random.default_rng([4, number])
        chosen = words[int(rng.integers(len(words)))]
        if number % 2 == 0:
            yield row
        else:
            options = [chosen[int(i)] for i in rng.permutation(len(chosen))]
            yield choose(options, row["inputs"], chosen[words[0].index(row["targets"])])


def _plain(words: Iterable[str]) -> list[str]:
    """The words of at least four letters that are written small."""
    stripped = (word.strip(".,;:!?()\"'") for word in words)
    return [word for word in stripped if word.isalpha() and word.islower() and len(word) >= 4]


@lru_cache(maxsize=2)
def keywords(name: str) -> list[list[str]]:
    """The words that set each document of a file apart from the others (tf-idf), best first."""
    counts: dict[int, Counter[str]] = {}
    for document, words in passages(name):
        counts.setdefault(document, Counter()).update(_plain(words))
    documents = Counter(word for count in counts.values() for word in count)
    words_of_rows: list[list[str]] = []
    for document in range(max(counts) + 1):
        weights = {
            word: tf * math.log(len(counts) / documents[word])
            for word, tf in counts.get(document, Counter()).items()
            if documents[word] >= COMMON and tf >= 3
        }
        words_of_rows.append(sorted(weights, key=lambda word: (-weights[word], word))[:KEYWORDS])
    return words_of_rows


def _window(rng, words: Sequence[str]) -> list[str]:
    start = int(rng.integers(max(len(words) - PASSAGE, 0) + 1))
    return list(words[start : start + PASSAGE])


def topic_rows(name: str, rows: int) -> Iterator[Row]:
    """A passage to a keyword of its document that it does not hold."""
    chosen, of_document = passages(name), keywords(name)
    for number in range(rows):
        rng = np.random.default_rng([5, number])
        document, words = chosen[int(rng.integers(len(chosen)))]
        text = " ".join(_window(rng, words))
        own = [word for word in of_document[document] if word[:4] not in text.lower()]
        if not own:
            continue
        right = own[int(rng.integers(len(own)))]
        others = []
        for other in rng.integers(len(of_document), size=3 * MOST_OPTIONS):
            if of_document[other]:
                word = of_document[other][int(rng.integers(len(of_document[other])))]
                if word not in (*of_document[document], *others):
                    others.append(word)
        yield among(rng, right, others, text)


def cloze_rows(name: str, rows: int) -> Iterator[Row]:
    """A passage with a blank to the word that stood there, among words of other passages."""
    chosen = passages(name)
    for number in range(rows):
        rng = np.random.default_rng([6, number])
        words = _window(rng, chosen[int(rng.integers(len(chosen)))][1])
        others = []
        for at in rng.integers(len(chosen), size=2 * MOST_OPTIONS):
            other = chosen[at][1]
            word = other[int(rng.integers(len(other)))].strip(".,;:()\"'")
            if word.isalpha() and word not in (*words, *others):
                others.append(word)
        blanks = [at for at, word in enumerate(words) if word.isalpha()]
        if blanks and others:
            at = blanks[int(rng.integers(len(blanks)))]
            text = " ".join([*words[:at], "_", *words[at + 1 :]])
            yield among(rng, words[at], others, text)


@lru_cache(maxsize=1)
def ratings() -> dict[str, int]:
    """Word -> the sign of its rating in vaderSentiment's lexicon."""
    return {word: 1 if label == "positive" else -1 for _, word, label in vader_entries(1.0)}


def sentences(name: str) -> Iterator[str]:
    """The sentences of a file of the corpus, of 6 to 30 words."""
    for line in read_corpus(name):
        for sentence in re.split(r"(?<=[.!?]) +", line or ""):
            if 6 <= len(sentence.split()) <= 30:
                yield sentence


def feeling_rows(names: Sequence[str], rows: int) -> Iterator[Row]:
    """A sentence all of whose rated words (two at least) have one sign to a word for the sign."""
    rated_words = ratings()
    by_feeling: tuple[list[str], list[str]] = ([], [])
    for sentence in (s for name in names for s in sentences(name)):
        words = re.findall(r"[a-z]+", sentence.lower())
        rated = [rated_words[word] for word in words if word in rated_words]
        if len(rated) >= 2 and abs(sum(rated)) == len(rated) and not {"not", "no"} & {*words}:
            by_feeling[rated[0] > 0].append(sentence)
    for number in range(rows):
        rng = np.random.default_rng([7, number])
        sign = number % 2
        words = FEELINGS[int(rng.integers(len(FEELINGS)))]
        text = by_feeling[sign][int(rng.integers(len(by_feeling[sign])))]
        yield choose([words[i] for i in rng.permutation(2)], text, words[sign])


def answer_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Questions (`inputs`) to their answers, among those of other questions."""
    known = [row for row in rows if len(row["targets"].split()) <= 5]
    for number, row in enumerate(known):
        rng = np.random.default_rng([8, number])
        drawn = (known[i]["targets"] for i in rng.integers(len(known), size=2 * MOST_OPTIONS))
        others = [other for other in dict.fromkeys(drawn) if other != row["targets"]]
        yield among(rng, row["targets"], others[:3], row["inputs"])


def after_rows(name: str, rows: int) -> Iterator[Row]:
    """A passage and one of its words to the word that follows."""
    chosen = passages(name)
    for number in range(rows):
        rng = np.random.default_rng([9, number])
        words = _window(rng, chosen[int(rng.integers(len(chosen)))][1])
        once = [at for at, word in enumerate(words[:-1]) if words.count(word) == 1]
        if once:
            at = once[int(rng.integers(len(once)))]
            inputs = f"{' '.join(words)} The word after {words[at]} is:"
            yield {"inputs": inputs, "targets": words[at + 1]}


def meaning_rows(language: str, most: int) -> Iterator[Row]:
    """NTREX's lines in a language, of at most `most` characters, to a word of the English line,
    among words of other lines."""
    lines = zip(read_corpus(ntrex(language)), read_corpus(ntrex("en")), strict=True)
    known = [
        (one, plain)
        for one, en in lines
        if one and en and len(one) <= most and (plain := _plain(en.split()))
    ]
    counts = Counter(word for _, plain in known for word in {*plain})
    common = partial(filter, lambda word: 3 <= counts[word] <= len(known) // 20)
    for number, (text, plain) in enumerate(known):
        rng = np.random.default_rng([10, number])
        own = sorted({*common(plain)})
        others = []
        for at in rng.integers(len(known), size=3 * MOST_OPTIONS):
            theirs = sorted({*common(known[at][1])} - {*plain, *others})
            if theirs:
                others.append(theirs[int(rng.integers(len(theirs)))])
        if own and others:
            yield among(rng, own[int(rng.integers(len(own)))], others, text)
