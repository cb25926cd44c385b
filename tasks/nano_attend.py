"""Rows in which what stands in front says how to answer, for a fourth stage of pretraining.

Each row begins with a few classes: a label and what belongs to it, words or a short text. A text
follows, and the answer is the label of the class that is nearest to it. Labels, words and classes
differ from row to row, so what is learned is to weigh a text against what stands in front; the
rows of a soft prompt can then stand there. Which class is nearest is said by a teacher: vectors of
sentences of the corpus (`nano_teacher.py` makes them), clustered.

`classes` has clusters by their words; `texts` a neighbour among other sentences; `polar` the sign
of a sentence by a line between phrases of vaderSentiment's words; `subject` asks for a word of the
cluster, with nothing in front; `asked` for what kind of answer a question has. What is drawn is a
function of the row's number alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from prompt_jax.tasks.nano_choose import FEELINGS, choose, ratings
from prompt_jax.tasks.nano_teacher import Teacher, read_teacher
from prompt_jax.tasks.nano_text import Row

CLUSTERS = 400
KEYWORDS = 12  # of a cluster
MOST_OFTEN = 0.01  # of the sentences have a keyword, at most
MOST_CLASSES = 6
SHORT = 9  # words of a text in front
SYMBOLS = (
    "A B C D E F",
    "1 2 3 4 5 6",
    "one two three four five six",
    "red blue green black white",
)
# How classes are written: one class, what is between them, and what is between them and the text.
FORMS = (
    ("{label}: {words}", "; ", " text: "),
    ("{words} is {label}", ". ", ". "),
    ("{label} ({words})", ", ", " : "),
    ("{words} = {label}", " ", " = ? "),
    ("{label} {words}", " | ", " | "),
)


class Clusters(NamedTuple):
    """Cluster of each sentence [N], centres [C, V], words and members of each cluster."""

    of: np.ndarray
    centres: np.ndarray
    words: list[list[str]]
    members: list[np.ndarray]


def plain_words(text: str) -> list[str]:
    """The words of at least four letters that are written small."""
    return [word for word in re.findall(r"[A-Za-z]+", text) if len(word) >= 4 and word.islower()]


@lru_cache(maxsize=1)
def centred() -> tuple[Teacher, np.ndarray]:
    """The teacher, and its vectors without their mean, of length 1."""
    teacher = read_teacher()
    vectors = teacher.vectors - teacher.vectors.mean(axis=0, dtype=np.float32)
    return teacher, np.asarray(normalize(vectors))


@lru_cache(maxsize=1)
def clusters() -> Clusters:
    """The clusters of the teacher's sentences."""
    teacher, vectors = centred()
    grouped = KMeans(CLUSTERS, max_iter=15, random_state=0).fit(vectors)
    of = np.asarray(grouped.labels_)
    centres = np.asarray(normalize(grouped.cluster_centers_))
    bags = [set(plain_words(text)) for text in teacher.texts]
    every = Counter(word for bag in bags for word in bag)
    inside: list[Counter[str]] = [Counter() for _ in range(CLUSTERS)]
    for cluster, bag in zip(of, bags, strict=True):
        inside[cluster].update(bag)
    members = [np.flatnonzero(of == cluster) for cluster in range(CLUSTERS)]
    words = [
        sorted(
            (w for w, n in counts.items() if n >= 3 and 5 <= every[w] <= MOST_OFTEN * len(bags)),
            key=lambda word: (-(counts[word] ** 2) / every[word], word),
        )[:KEYWORDS]
        for counts in inside
    ]
    return Clusters(of, centres, words, members)


def _labels(rng, count: int, own: Sequence[str]) -> list[str]:
    """`own`, or as many symbols."""
    if rng.random() < 0.6:
        return list(own)
    symbols = SYMBOLS[int(rng.integers(len(SYMBOLS)))].split()
    if len(symbols) < count:
        return list(own)
    return [symbols[i] for i in rng.permutation(len(symbols))[:count]]


def ask(rng, labels: Sequence[str], words: Sequence[str], text: str, right: int) -> Row:
    """The row with the classes in front, in any order and one of FORMS."""
    each, between, then = FORMS[int(rng.integers(len(FORMS)))]
    written = [each.format(label=labels[i], words=words[i]) for i in rng.permutation(len(labels))]
    return {"inputs": between.join(written) + then + text, "targets": labels[right]}


def classes_rows(rows: int) -> Iterator[Row]:
    """A sentence to the label of its cluster, among clusters by their words."""
    teacher, vectors = centred()
    grouped = clusters()
    usable = [
        c for c in range(CLUSTERS) if len(grouped.words[c]) >= 4 and len(grouped.members[c]) >= 8
    ]
    for number in range(rows):
        rng = np.random.default_rng([21, number])
        own = usable[int(rng.integers(len(usable)))]
        at = int(grouped.members[own][int(rng.integers(len(grouped.members[own])))])
        near = grouped.centres @ vectors[at]
        drawn = [usable[i] for i in rng.permutation(len(usable))[: 3 * MOST_CLASSES]]
        others = [c for c in drawn if c != own and near[c] < near[own] - 0.15]
        others = others[: int(rng.integers(1, MOST_CLASSES))]
        if not others:
            continue
        chosen, labels, words = [own, *others], [], []
        for cluster in chosen:
            known = [
                grouped.words[cluster][i] for i in rng.permutation(len(grouped.words[cluster]))
            ]
            labels.append(known[0])
            words.append(", ".join(known[1 : 2 + int(rng.integers(1, 3))]))
        if len(set(labels)) < len(labels):
            continue
        yield ask(rng, _labels(rng, len(labels), labels), words, teacher.texts[at], 0)


def _short(rng, text: str) -> str:
    words = text.split()
    start = int(rng.integers(max(len(words) - SHORT, 0) + 1))
    return " ".join(words[start : start + SHORT]).rstrip(".,;:")


def texts_rows(rows: int) -> Iterator[Row]:
    """A sentence to the label of a sentence of its cluster, among those of others."""
    teacher, vectors = centred()
    grouped = clusters()
    for number in range(rows):
        rng = np.random.default_rng([22, number])
        at = int(rng.integers(len(teacher.texts)))
        same = grouped.members[grouped.of[at]]
        drawn = same[rng.integers(len(same), size=8)]
        near = vectors[drawn] @ vectors[at]
        near[drawn == at] = -1
        right = int(drawn[near.argmax()])
        others = [int(i) for i in rng.integers(len(teacher.texts), size=3)]
        far = [i for i in others if vectors[i] @ vectors[at] < near.max() - 0.2]
        if near.max() < 0.3 or not far:
            continue
        far = far[: int(rng.integers(1, 4))]
        words = [_short(rng, teacher.texts[i]) for i in (right, *far)]
        labels = []
        for i in (right, *far):
            known = grouped.words[grouped.of[i]] or ["other"]
            labels.append(known[int(rng.integers(len(known)))])
        if len(set(labels)) == len(labels):
            yield ask(rng, _labels(rng, len(labels), labels), words, teacher.texts[at], 0)


def subject_rows(rows: int) -> Iterator[Row]:
    """A sentence to a word of its cluster, nothing listed."""
    teacher, grouped = centred()[0], clusters()
    for number in range(rows):
        rng = np.random.default_rng([23, number])
        at = int(rng.integers(len(teacher.texts)))
        known = grouped.words[grouped.of[at]][:3]
        if known:
            word = known[int(rng.integers(len(known)))]
            yield {"inputs": f"subject: {teacher.texts[at]}", "targets": word}


def rated_sign(text: str) -> int:
    """The one sign of all rated words of a sentence, if it has two or more and no negation."""
    words = re.findall(r"[a-z']+", text.lower())
    rated = [rating for word in words if (rating := ratings().get(word))]
    negated = any(word in ("not", "no", "never") or word.endswith("n't") for word in words)
    return rated[0] if len(rated) >= 2 and abs(sum(rated)) == len(rated) and not negated else 0


@lru_cache(maxsize=1)
def signs() -> tuple[np.ndarray, np.ndarray]:
    """(sentences that are the most negative, the most positive), by a line fitted to phrases and
    to sentences whose rated words agree."""
    teacher, vectors = centred()
    labels = np.array(
        [s or rated_sign(t) for s, t in zip(teacher.signs, teacher.texts, strict=True)]
    )
    signed = labels != 0
    line = Ridge(alpha=1.0).fit(vectors[signed], labels[signed])
    scores = np.asarray(line.predict(vectors))
    rest = np.flatnonzero(teacher.signs == 0)
    order = rest[np.argsort(scores[rest], kind="stable")]
    most = len(order) // 8
    return order[:most], order[-most:]


def polar_rows(rows: int) -> Iterator[Row]:
    """A sentence or a phrase of rated words to a word for its sign."""
    teacher, _ = centred()
    phrases = [np.flatnonzero(teacher.signs == sign) for sign in (-1, 1)]
    by_sign = signs()
    for number in range(rows):
        rng = np.random.default_rng([24, number])
        sign = number % 2
        pool = (phrases if rng.random() < 0.25 else by_sign)[sign]
        text = teacher.texts[int(pool[int(rng.integers(len(pool)))])]
        words = FEELINGS[int(rng.integers(len(FEELINGS)))]
        order = [int(i) for i in rng.permutation(2)]
        if rng.random() < 0.4:
            yield choose([words[i] for i in order], text, words[sign])
        else:
            drawn = [phrases[s][rng.integers(len(phrases[s]), size=1)] for s in (0, 1)]
            front = [" ".join(teacher.texts[int(i)] for i in each) for each in drawn]
            labels = _labels(rng, 2, words)
            yield ask(rng, labels, front, text, sign)


ANSWERS = (
    ("number", "date", "person", "place", "group", "thing", "yes or no"),
    ("how many", "when", "who", "where", "which group", "what", "whether"),
    ("count", "time", "human", "location", "organization", "entity", "truth"),
)
MONTHS = "January February March April May June July August September October November December"
_DATE = re.compile(rf"\b(1\d|20)\d\d\b|\b({MONTHS.replace(' ', '|')})\b")
_NUMBER = re.compile(
    r"\d|\b(two|three|four|five|six|seven|eight|nine|ten|million|thousand|hundred)\b"
)


def _kind(question: str, answer: str, names: dict[str, str]) -> int | None:
    """The place in ANSWERS of what is asked for, by the answer; None where it cannot be told."""
    if _DATE.search(answer):
        return 1 if len(answer.split()) <= 6 else None
    if _NUMBER.search(answer):
        return 0 if len(answer.split()) <= 4 else None
    if answer in names:
        return {"PER": 2, "LOC": 3, "ORG": 4}[names[answer]]
    lower = question.lower()
    if lower.startswith("who ") and len(answer.split()) <= 4:
        return 2
    if lower.startswith("where ") and len(answer.split()) <= 5:
        return 3
    return 5 if len(answer.split()) <= 4 and answer[:1].islower() else None


def asked_rows(
    questions: Sequence[tuple[str, str]], yes_or_no: Sequence[str], names: dict[str, str]
) -> Iterator[Row]:
    """Questions with their answers, and such as are answered by yes or no, to the kind of answer;
    half of the rows list the kinds."""
    known = [(q, kind) for q, a in questions if (kind := _kind(q, a, names)) is not None]
    known += [(q, 6) for q in yes_or_no]
    for number, (question, kind) in enumerate(known):
        rng = np.random.default_rng([25, number])
        words = ANSWERS[int(rng.integers(len(ANSWERS)))]
        if number % 2:
            others = [i for i in rng.permutation(len(words)) if i != kind]
            options = [*others[: int(rng.integers(2, len(words)))], kind]
            listed = [words[options[i]] for i in rng.permutation(len(options))]
            yield choose(listed, question, words[kind])
        else:
            yield {"inputs": f"asked: {question}", "targets": words[kind]}
