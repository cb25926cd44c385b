"""Rows that plain text makes by itself, for the third stage of pretraining: no labels are needed.

`text` continues a passage, so that the model goes on writing; `order` tells a passage from one
whose words were shuffled, `same` two passages of one document from two of different ones, and
`translate` goes between aligned lines of two languages. Passages are the first words of paragraphs
of the corpus in the data folder (`corpus/en_wiki.txt.xz`), less those that share words with tests
(`prompt_jax.data.corpus.left_out`). What is drawn is a function of the row's number alone.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.textfiles import left_out, paragraph_digest, read_lines

Row = dict[str, str]
HALF = 20  # words of a passage of which two fit into 64 pieces
CONTINUED = 20  # words of one that is continued by as many
LEAST = 12  # words of a paragraph that is used


def read_corpus(name: str) -> list[str | None]:
    """The lines of a file of the data folder's corpus; None for one that is left out."""
    root = os.environ.get("PROMPT_JAX_DATA_DIR")
    if not root:
        raise UserError(f"corpus/{name}", "is read from a data folder", "give --data_dir")
    without = left_out()
    lines = read_lines(Path(root) / "corpus" / name)
    return [None if paragraph_digest(line) in without else line for line in lines]


def corpus_file(name: str) -> str | None:
    """The path of a file of the data folder's corpus; None where it is not at hand."""
    path = Path(os.environ.get("PROMPT_JAX_DATA_DIR", "")) / "corpus" / name
    return str(path) if path.is_file() else None


def ntrex(language: str) -> str:
    """NTREX's file of a language."""
    return f"multi/{language}/ntrex.txt.xz"


@lru_cache(maxsize=2)
def passages(name: str) -> list[tuple[int, list[str]]]:
    """(number of the document, words) of every paragraph that is long enough."""
    every, document = [], 0
    for line in read_corpus(name):
        document += line == ""
        words = (line or "").split()
        if len(words) >= LEAST:
            every.append((document, words))
    return every


def text_rows(name: str, rows: int) -> Iterator[Row]:
    """Half of a passage to the other half."""
    chosen = passages(name)
    for number in range(rows):
        rng = np.random.default_rng([0, number])
        _, words = chosen[int(rng.integers(len(chosen)))]
        start = int(rng.integers(max(len(words) - 2 * CONTINUED, 0) + 1))
        window = words[start : start + 2 * CONTINUED]
        cut = len(window) // 2
        yield {"inputs": " ".join(window[:cut]), "targets": " ".join(window[cut:])}


def order_rows(name: str, rows: int) -> Iterator[Row]:
    """Is the passage as it was written, or were some of its words moved?"""
    chosen = passages(name)
    for number in range(rows):
        rng = np.random.default_rng([1, number])
        words = chosen[int(rng.integers(len(chosen)))][1][:HALF]
        moved = number % 2 == 1
        if moved:
            length = int(rng.integers(3, 9))
            start = int(rng.integers(len(words) - length + 1))
            part = words[start : start + length]
            shuffled = [part[i] for i in rng.permutation(length)]
            if shuffled == part:
                shuffled = part[::-1]
            words = [*words[:start], *shuffled, *words[start + length :]]
        targets = "changed" if moved else "natural"
        yield {"inputs": f"order text: {' '.join(words)}", "targets": targets}


def same_rows(name: str, rows: int) -> Iterator[Row]:
    """Are two passages from one document?"""
    chosen = passages(name)
    for number in range(rows):
        rng = np.random.default_rng([2, number])
        first = int(rng.integers(len(chosen) - 1))
        second = first + 1 if number % 2 else int(rng.integers(len(chosen)))
        same = chosen[first][0] == chosen[second][0]
        texts = [" ".join(chosen[at][1][:HALF]) for at in (first, second)]
        inputs = f"same text1: {texts[0]} text2: {texts[1]}"
        yield {"inputs": inputs, "targets": "same" if same else "different"}


def translate_rows(source: str, target: str, most: int) -> Iterator[Row]:
    """NTREX's lines in one language to another, those of at most `most` characters."""
    sides = [read_corpus(ntrex(language)) for language in (source, target)]
    for one, other in zip(*sides, strict=True):
        if one and other and len(one) <= most and len(other) <= most:
            yield {"inputs": f"translate {source} to {target}: {one}", "targets": other}
