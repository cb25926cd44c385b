"""Examples and tokens by number: the same on disk as in memory, and never all in memory at once."""

import dataclasses
import hashlib
import json
import tracemalloc

import pytest

from prompt_jax.data import rows, token_cache
from prompt_jax.data.source import Data
from prompt_jax.data.split import Sampling, Shown, Split
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.tasks import text

COUNT, LONG = 2000, 6000  # rows of the large file, and characters of each


class Short:
    """A vocabulary with two pieces a text."""

    size, digest = 1000, "short"

    def encode(self, text: str) -> list[int]:
        return [3 + int(text[:6]) % 900, 7] if text[:6].isdecimal() else [3]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """12 MB of rows with numbers, truth values, and a key that not every row has."""
    path = tmp_path_factory.mktemp("large") / "large.train.jsonl"
    with open(path, "w") as file:
        for i in range(COUNT):
            row = {"inputs": f"{i:06d} " + "x" * (LONG - i % 7), "targets": "aü"[i % 2]}
            row |= {"id": i, "odd": i % 2 == 1, "share": i / 7}
            file.write(json.dumps(row | ({"rare": 1} if i % 3 else {})) + "\n")
    (path.parent / "large.validation.jsonl").write_text('{"inputs": "x", "targets": "a"}\n')
    return str(path)


@pytest.fixture
def small_memory(tmp_path, monkeypatch):
    """A machine on which little fits, and a token cache of its own."""
    monkeypatch.setattr(rows, "IN_MEMORY", 1 << 16)
    monkeypatch.setattr(text, "READ_BATCH", 64)
    monkeypatch.setattr(token_cache, "CHUNK", 1 << 16)
    monkeypatch.setattr(token_cache, "folder", lambda: tmp_path / "cache")


def test_a_large_file_is_never_in_memory(large, small_memory):
    data = Data(task=large, input_length=64, target_length=4, batch_size=8)
    _ = dataclasses.replace(data, max_examples=4).read()  # imports what reading needs
    tracemalloc.start()
    begun, _ = tracemalloc.get_traced_memory()
    read = data.read()
    batch = read.open(Short(), PromptLayout(encoder=2), seed=0).batch(0)
    assert len(read.digest()) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (examples,) = read.examples.values()
    assert len(examples) == COUNT and isinstance(examples, rows.ExamplesOnDisk)
    assert batch["encoder_segment_ids"].max() == 2
    assert peak - begun < COUNT * LONG / 4


def test_on_disk_as_in_memory(large, small_memory, monkeypatch):
    split = Split(large, "train", (64, 4), Sampling(max_examples=60), Shown(2, 1))
    on_disk = split.read()
    monkeypatch.setattr(rows, "IN_MEMORY", 1 << 30)
    in_memory = split.read()
    (stored,), (listed,) = on_disk.examples.values(), in_memory.examples.values()
    assert isinstance(stored, rows.ExamplesOnDisk) and isinstance(listed, list)
    assert list(stored) == listed and stored[-1] == listed[-1] and stored[3:9:2] == listed[3:9:2]
    inputs = "000005 " + "x" * (LONG - 5)
    assert listed[5] == {"inputs": inputs, "targets": "ü", "id": 5, "odd": True, "share": 5 / 7}
    assert on_disk.digest() == in_memory.digest()
    (one,), (other,) = on_disk.rows(Short()), in_memory.rows(Short())
    assert one.lengths.tolist() == other.lengths.tolist()
    assert [row.tolist() for row in one.inputs] == [row.tolist() for row in other.inputs]
    assert {len(row) for row in one.inputs} == {2 + 2 + 3}
    with pytest.raises(IndexError):
        _ = stored[60]


def test_digests_are_those_of_json(large):
    """Journals and identities of earlier versions hold these."""
    read = Split(large, "train", (64, 4), Sampling(max_examples=3), Shown(1)).read()
    (name,), (examples,) = read.examples, read.examples.values()
    texts = list(read.asked(name))
    assert read.asked_digest() == hashlib.sha256(json.dumps([texts]).encode()).hexdigest()
    pairs = [[text, e["targets"]] for text, e in zip(texts, examples, strict=True)]
    written = json.dumps([name.split(":")[:2], 1.0, pairs])
    assert read.digest() == hashlib.sha256(written.encode()).hexdigest()


def test_no_more_examples_are_read_than_taken():
    taken = []

    def stream():
        for i in range(100):
            taken.append(i)
            yield {"inputs": str(i), "targets": "a"}

    assert len(Sampling(max_examples=7).of("t", stream())) == len(taken) == 7


def test_tokens_end_in_one_eos_and_are_counted():
    tokens = rows.tokens_of([[5, 6, 1], [], [7, 8, 9, 10], [1]], 4)
    assert [row.tolist() for row in tokens] == [[5, 6, 1], [1], [7, 8, 9, 1], [1]]
    assert (tokens.cut, tokens.lengths.tolist(), len(tokens)) == (1, [3, 1, 4, 1], 4)
