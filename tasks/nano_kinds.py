"""Rows about one word, for the third stage of pretraining: a tagging prompt asks for such answers.

`kind` asks for the class of a word in its sentence. The classes are found, not given: the commonest
words of a file, clustered by the words beside them (Schütze 1995), each class named by its
commonest word. `entity` asks whether a word of a PAN-X sentence is of a person's, an organization's
or a location's name; `related` for the keyword that shares its document with others. Half of the
rows list answers to choose from. What is drawn is a function of the row's number alone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from sklearn.cluster import KMeans

from prompt_jax.tasks.layouts import Record
from prompt_jax.tasks.nano_choose import among, keywords
from prompt_jax.tasks.nano_text import Row, passages

WINDOW = 20  # words of a sentence
WORDS = 5000  # that are clustered
NEIGHBOURS = 250  # words that are counted on either side of them
CLASSES = 32
# "WINDOW The class of WORD is a kind of:", in words that vary.
ASKED = (
    "The class of {} is:",
    "What sort of word is {} ?",
    "{} is a word like:",
    "The kind of {} is a sort of:",
)
NAMED = ("The name of {} is of a:", "What does {} name ?")  # the same for `entity`
# Sentences of PAN-X that share eight words with a text of RTE: the names of an office and a church.
SHARED = {2422, 2567}
NAMES = {"PER": "person", "ORG": "organization", "LOC": "location"}


def _plain(word: str) -> str:
    """The word without the punctuation at its ends, small; punctuation alone stays."""
    return word.strip(".,;:()\"'").lower() or word


@lru_cache(maxsize=2)
def classes(name: str) -> tuple[list[list[str]], dict[str, int]]:
    """(words of each class, commonest first; word -> class) of the commonest words of a file."""
    lines = [[_plain(word) for word in words] for _, words in passages(name)]
    counts = Counter(word for line in lines for word in line)
    known = [word for word, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:WORDS]]
    row_of = {word: row for row, word in enumerate(known)}
    beside = np.zeros((len(known), 2, NEIGHBOURS + 1))  # the last column: any rarer word
    for line in lines:
        rows = [row_of.get(word, -1) for word in line]
        for left, right in pairwise(rows):
            if left >= 0:
                beside[left, 1, min(right % len(known), NEIGHBOURS)] += 1
            if right >= 0:
                beside[right, 0, min(left % len(known), NEIGHBOURS)] += 1
    beside = np.sqrt(beside / np.maximum(beside.sum(-1, keepdims=True), 1)).reshape(len(known), -1)
    most = min(CLASSES, len(known))
    labels = KMeans(most, n_init="auto", random_state=0).fit_predict(beside)
    members: list[list[str]] = [[] for _ in range(most)]
    for word, label in zip(known, labels, strict=True):
        members[label].append(word)
    return members, {word: int(label) for word, label in zip(known, labels, strict=True)}


def _one_of(rng, things: Sequence[str]) -> str:
    return things[int(rng.integers(len(things)))]


def _asked(rng, words: Sequence[str], word: str, forms: Sequence[str] = ASKED) -> str:
    return f"{' '.join(words)} {_one_of(rng, forms).format(word)}"


def kind_rows(name: str, rows: int) -> Iterator[Row]:
    """A sentence and one of its words to the name of the word's class; of every other row to a
    common word of the class, among words of other classes."""
    chosen, (members, class_of) = passages(name), classes(name)
    for number in range(rows):
        rng = np.random.default_rng([11, number])
        words = chosen[int(rng.integers(len(chosen)))][1]
        start = int(rng.integers(max(len(words) - WINDOW, 0) + 1))
        words = words[start : start + WINDOW]
        known = [word for word in words if _plain(word) in class_of]
        if not known:
            continue
        # Classes, not words, are drawn evenly: else half of the rows are about "the" and "of".
        kinds = sorted({class_of[_plain(word)] for word in known})
        right = kinds[int(rng.integers(len(kinds)))]
        word = _one_of(rng, [word for word in known if class_of[_plain(word)] == right])
        text = _asked(rng, words, _plain(word))
        if number % 2 == 0:
            yield {"inputs": text, "targets": members[right][0]}
        else:
            at = [int(i) for i in rng.permutation(len(members)) if i != right]
            others = [_one_of(rng, members[i][:50]) for i in at]
            yield among(rng, _one_of(rng, members[right][:50]), others, text)


def entity_rows(records: Iterable[Record]) -> Iterator[Row]:
    """A tagged sentence and one of its words to the kind of name it is of, or "none"."""
    for number, record in enumerate(records):
        if number in SHARED:
            continue
        rng = np.random.default_rng([12, number])
        words = record["words"][:WINDOW]
        kinds = [NAMES.get(tag[2:], "none") for tag in record["tags"][:WINDOW]]
        right = _one_of(rng, sorted({*kinds}))
        places = [at for at, kind in enumerate(kinds) if kind == right]
        word = words[places[int(rng.integers(len(places)))]]
        yield {"inputs": _asked(rng, words, word, NAMED), "targets": right}


def related_rows(name: str, rows: int) -> Iterator[Row]:
    """One to three keywords of a document to another, among keywords of other documents."""
    documents = [words for words in keywords(name) if len(words) >= 4]
    for number in range(rows):
        rng = np.random.default_rng([13, number])
        own = documents[int(rng.integers(len(documents)))]
        shown = [own[int(i)] for i in rng.permutation(len(own))[: int(rng.integers(2, 5))]]
        others = []
        for at in rng.integers(len(documents), size=8):
            word = _one_of(rng, documents[at])
            if word not in (*own, *others):
                others.append(word)
        yield among(rng, shown[0], others, " ".join(shown[1:]))
