"""Tokens of texts, remembered on this machine: a large split is tokenised once, not at each start.

What is remembered is keyed by all that decides it: the bytes of every text in their order, the
digest of the vocabulary, and the code that encodes (SentencePiece's version and `vocabulary.py`).
A changed file, preprocessor, sample or vocabulary gives other texts or another digest, and so
another key; hashing texts is cheap beside tokenising them. How long a row may be and every seed
come later, so that train and eval at any length share one entry.

An entry is two files of numbers: `texts-KEY.ids`, the ids of all texts one after the other, which
is mapped into memory, and `texts-KEY.ends.npy`, where each text ends and the checksum of the ids.
"""

import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from prompt_jax.backbone import vocabulary as vocabularies

LEAST = 1 << 17  # characters: fewer are tokenised in no time
CHUNK = 1 << 20  # ids that are held before they are written, and bytes that are read at a time


@dataclass(frozen=True, eq=False)
class Ids(Sequence):
    """The ids of texts by number, int32 [n] each, without EOS.

    Attributes:
      ids: uint16 or uint32, of all texts one after the other.
      ends: int64 [n], where each text ends among them.
    """

    ids: np.ndarray
    ends: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number):
        start = self.ends[number - 1] if number else 0
        return self.ids[start : self.ends[number]].astype(np.int32)


def encoded(texts: Sequence[str], vocabulary) -> Ids:
    """The ids of every text: from disk, or made and kept there.

    Processes that start together may each make them; all write the same. A file that is damaged
    (its checksum says so) is made anew.
    """
    if sum(map(len, texts)) < LEAST:
        return _made(texts, vocabulary)
    base = folder()
    if base is None:  # no folder for temporary files: nothing is remembered
        return _made(texts, vocabulary)
    path = base / f"texts-{_key(texts, vocabulary)}.ids"
    ids = _read(path, vocabulary)
    if ids is None:
        _write(path, texts, vocabulary)
        ids = _read(path, vocabulary)
    return _made(texts, vocabulary) if ids is None else ids


def folder() -> Path | None:
    """Of this user, in the machine's temporary folder; None where it has none to write to."""
    try:
        return Path(tempfile.gettempdir()) / f"prompt_jax-{os.getuid()}"
    except FileNotFoundError:
        return None


def _dtype(vocabulary) -> type:
    return np.uint16 if vocabulary.size <= 1 << 16 else np.uint32


def _key(texts: Sequence[str], vocabulary) -> str:
    code = Path(vocabularies.__file__).read_bytes()
    about = repr((vocabulary.digest, sentencepiece.__version__, len(texts)))
    total = hashlib.sha256(about.encode())
    total.update(hashlib.sha256(code).digest())
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def _chunks(texts: Iterable[str], vocabulary) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Ids of some texts after one another, and how many each has."""
    ids: list[int] = []
    sizes: list[int] = []
    for text in texts:
        one = vocabulary.encode(text)
        ids += one
        sizes.append(len(one))
        if len(ids) >= CHUNK:
            yield np.asarray(ids, _dtype(vocabulary)), sizes
            ids, sizes = [], []
    yield np.asarray(ids, _dtype(vocabulary)), sizes


def _made(texts: Sequence[str], vocabulary) -> Ids:
    parts, sizes = [], []
    for ids, some in _chunks(texts, vocabulary):
        parts.append(ids)
        sizes += some
    return Ids(np.concatenate(parts), np.cumsum(sizes, dtype=np.int64))


def _ends_of(path: Path) -> Path:
    return path.with_suffix(".ends.npy")


def _read(path: Path, vocabulary) -> Ids | None:
    """None where the entry is not there, or not whole."""
    try:
        with open(_ends_of(path), "rb") as file:
            checksum, *_ = ends = np.load(file, allow_pickle=False)
        total = 0
        with open(path, "rb") as file:
            while part := file.read(CHUNK):
                total = zlib.crc32(part, total)
        if (total, zlib.crc32(ends[2:].tobytes())) != (checksum, ends[1]):
            return None
        count = int(ends[-1]) if len(ends) > 2 else 0
        if path.stat().st_size != count * np.dtype(_dtype(vocabulary)).itemsize:
            return None
        empty = np.zeros(0, _dtype(vocabulary))
        ids = np.memmap(path, _dtype(vocabulary), "r") if count else empty
    except (OSError, ValueError, EOFError):
        return None
    return Ids(ids, ends[2:])


def _write(path: Path, texts: Sequence[str], vocabulary) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with contextlib.suppress(OSError):  # no room, or no right to write: made anew next time
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            sizes: list[int] = []
            checksum = 0
            with open(partial, "wb") as file:
                for ids, some in _chunks(texts, vocabulary):
                    file.write(ids.tobytes())
                    checksum = zlib.crc32(ids.tobytes(), checksum)
                    sizes += some
            partial.replace(path)
            ends = np.cumsum(sizes, dtype=np.int64)
            with open(partial, "wb") as file:
                facts = [checksum, zlib.crc32(ends.tobytes())]
                np.save(file, np.concatenate([facts, ends]), allow_pickle=False)
            partial.replace(_ends_of(path))
        finally:
            partial.unlink(missing_ok=True)
