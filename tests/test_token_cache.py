"""Tokens are made once and found again; whatever decides them makes another entry."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prompt_jax.data import token_cache
from prompt_jax.data.rows import tokenize_texts

TEXTS = [f"row {i} " + "word " * (i % 7) for i in range(50)] + ["", "ünï <extra_id_0> \ud800"]


class Counting:
    """A vocabulary that counts what it is asked; `digest` as given."""

    size = 300

    def __init__(self, digest: str = "one"):
        self.digest, self.asked = digest, 0

    def encode(self, text: str) -> list[int]:
        self.asked += 1
        return [3 + byte for byte in text.encode("utf-8", "surrogatepass")]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(token_cache, "folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(token_cache, "LEAST", 100)
    return tmp_path / "cache"


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_second_start_tokenises_nothing_at_any_length(cache):
    first, again = Counting(), Counting()
    made = token_cache.encoded(TEXTS, first)
    assert same(made, token_cache.encoded(TEXTS, again))
    assert (first.asked, again.asked) == (len(TEXTS), 0)
    assert [len(path.name) > 60 for path in cache.iterdir()] == [True, True]
    for length in (4, 16):
        rows = tokenize_texts(TEXTS, again, length)
        assert [row.tolist() for row in rows] == [[*m[: length - 1], 1] for m in made]
        assert {row.dtype for row in rows} == {np.dtype(np.int32)}
        assert rows.cut == sum(len(m) > length - 1 for m in made)
    assert again.asked == 0


@pytest.mark.parametrize(
    ("texts", "digest"),
    [
        ([*TEXTS[:-1], "another"], "one"),
        (TEXTS[::-1], "one"),
        (TEXTS[:-1], "one"),
        ([TEXTS[0] + TEXTS[1][0], TEXTS[1][1:], *TEXTS[2:]], "one"),
        (TEXTS, "two"),
    ],
    ids=["text", "order", "fewer", "borders", "vocabulary"],
)
def test_a_change_is_another_entry(cache, texts, digest):
    token_cache.encoded(TEXTS, Counting())
    other = Counting(digest)
    assert same(token_cache.encoded(texts, other), [other.encode(text) for text in texts])
    assert other.asked == 2 * len(texts)


def test_other_code_is_another_entry(cache, tmp_path, monkeypatch):
    token_cache.encoded(TEXTS, Counting())
    changed = tmp_path / "vocabulary.py"
    changed.write_text("# encodes otherwise")
    monkeypatch.setattr(token_cache.vocabularies, "__file__", str(changed))
    again = Counting()
    token_cache.encoded(TEXTS, again)
    assert again.asked == len(TEXTS)


@pytest.mark.parametrize("file", ["*.ids", "*.npy"])
@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_file_is_made_anew(cache, damage, file):
    made = [ids.tolist() for ids in token_cache.encoded(TEXTS, Counting())]
    (path,) = cache.glob(file)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # what is mapped into memory stays
    path.write_bytes({"cut": data[:-100], "bit": data, "empty": b""}[damage])
    again = Counting()
    assert same(made, token_cache.encoded(TEXTS, again)) and again.asked == len(TEXTS)
    assert same(made, token_cache.encoded(TEXTS, last := Counting())) and last.asked == 0


def test_where_nothing_can_be_written_tokens_are_made_each_time(cache):
    cache.write_text("a file in its place")
    for _ in range(2):
        words = Counting()
        assert len(token_cache.encoded(TEXTS, words)) == words.asked == len(TEXTS)


def test_small_splits_leave_no_file(cache):
    token_cache.encoded(["a"], Counting())
    assert not cache.exists()


RACER = """
from prompt_jax.data import token_cache
from prompt_jax.backbone.vocabulary import Vocabulary
token_cache.LEAST = 1
texts, words = [f"row {i}" for i in range(50)], Vocabulary.bytes()
found = token_cache.encoded(texts, words)
assert [list(ids) for ids in found] == [words.encode(text) for text in texts]
"""


@pytest.mark.slow
def test_processes_may_race(tmp_path):
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    racers = [subprocess.Popen([sys.executable, "-c", RACER], env=environ) for _ in range(3)]
    assert [racer.wait(60) for racer in racers] == [0, 0, 0]
    assert [
        path.suffix
        for path in sorted(tmp_path.glob("prompt_jax-*/*"), key=lambda path: path.suffix)
    ] == [".ids", ".npy"]
