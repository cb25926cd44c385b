"""Short forms of text for `nano_multitask`: windows of passages, names, runs of tags."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def digest(text: str) -> str:
    """The first 8 digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def joined(prefix: str, **fields: str) -> str:
    """ "PREFIX name: text name: text", with single blanks.

    >>> joined("copa", choice1="It  rained.", question="cause")
    'copa choice1: It rained. question: cause'
    """
    parts = [f"{name}: {' '.join(text.split())}" for name, text in fields.items()]
    return " ".join([prefix, *parts])


def best_window(passage: str, query: str, most: int) -> str:
    """The run of at most `most` words of `passage` that holds most distinct words of `query`.

    >>> best_window("It is hot. Force moves a ball. It is cold.", "What moves the ball?", 4)
    'Force moves a ball.'
    """
    words, places = _index(passage)
    starts = max(1, len(words) - most + 1)
    hits = np.zeros(starts, np.int64)
    for key in {_key(word) for word in query.split()} & places.keys():
        covered = np.zeros(starts, bool)
        for place in places[key]:
            covered[max(0, place - most + 1) : place + 1] = True
        hits += covered
    first = int(np.argmax(hits))
    run = int(np.argmin(np.append(hits[first:] == hits[first], False)))
    start = first + (run - 1) // 2
    return " ".join(words[start : start + most])


@lru_cache(maxsize=8)
def _index(passage: str) -> tuple[list[str], dict[str, list[int]]]:
    """The words of a passage, and where each of its longer words stands, by `_key`."""
    words, places = passage.split(), {}
    for place, word in enumerate(words):
        if len(_key(word)) > 3:
            places.setdefault(_key(word), []).append(place)
    return words, places


def _key(word: str) -> str:
    return re.sub(r"\W", "", word).lower()


def window_with(context: str, start: int, end: int, most: int) -> str | None:
    """At most `most` words of `context` that hold its characters [start, end).

    Where in the window they stand is drawn from a hash of the context. None if they are too many.
    """
    before, after = context[:start].split(), context[end:].split()
    answer = context[start:end].split()
    room = most - len(answer)
    if room < 0:
        return None
    digest = hashlib.sha256(context.encode()).digest()
    left = min(len(before), max(int.from_bytes(digest[:4], "big") % (room + 1), room - len(after)))
    left_part = before[len(before) - left :] if left else []
    return " ".join([*left_part, *answer, *after[: room - left]])


def entities(words: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """(kind, text) of each run of B-KIND I-KIND ... tags; I- after another kind begins a name.

    >>> entities(["Marie", "Curie", "in", "Paris"], ["B-PER", "I-PER", "O", "B-LOC"])
    [('PER', 'Marie Curie'), ('LOC', 'Paris')]
    """
    named: list[tuple[str, list[str]]] = []
    previous = "O"
    for word, tag in zip(words, tags, strict=True):
        if tag != "O":
            if tag.startswith("I-") and previous[2:] == tag[2:]:
                named[-1][1].append(word)
            else:
                named.append((tag[2:], [word]))
        previous = tag
    return [(kind, " ".join(parts)) for kind, parts in named]


def plain_name(name: str) -> str:
    """The name of a thing in a knowledge base as words.

    >>> plain_name("Aarhus_Airport")
    'Aarhus Airport'
    """
    return " ".join(name.strip('"').replace("_", " ").split())


def plain_property(name: str) -> str:
    """The name of a property in a knowledge base as words.

    >>> plain_property("leaderName"), plain_property("BIRTH_DATE")
    ('leader name', 'birth date')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain_name(name)).lower()
