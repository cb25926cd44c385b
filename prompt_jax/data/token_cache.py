"""Tokens of texts, remembered on this machine: a large split is tokenised once, not at each start.

What is remembered is keyed by all that decides it: the bytes of every text in their order, the
digest of the vocabulary, and the code that encodes (SentencePiece's version and `vocabulary.py`).
A changed file, preprocessor, sample or vocabulary gives other texts or another digest, and so
another key; hashing texts is cheap beside tokenising them. How long a row may be and every seed
come later, so that train and eval at any length share one entry.
"""

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from prompt_jax.backbone import vocabulary as vocabularies

LEAST = 1 << 17  # characters: fewer are tokenised in no time


def encoded(texts: Sequence[str], vocabulary) -> list[np.ndarray]:
    """The ids of every text, uint16 or uint32 [n], without EOS: from disk, or made and kept there.

    Processes that start together may each make them; all write the same. A file that is damaged
    (its checksum says so) is made anew.
    """
    if sum(map(len, texts)) < LEAST:
        return [np.asarray(vocabulary.encode(text), _dtype(vocabulary)) for text in texts]
    base = folder()
    if base is None:  # no folder for temporary files: nothing is remembered
        return [np.asarray(vocabulary.encode(text), _dtype(vocabulary)) for text in texts]
    path = base / f"texts-{_key(texts, vocabulary)}.npz"
    found = _read(path)
    if found is None:
        found = [np.asarray(vocabulary.encode(text), _dtype(vocabulary)) for text in texts]
        _write(path, found)
    return found


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
    told = hashlib.sha256(repr((vocabulary.digest, sentencepiece.__version__, len(texts))).encode())
    told.update(hashlib.sha256(code).digest())
    for text in texts:
        written = text.encode("utf-8", "surrogatepass")
        told.update(len(written).to_bytes(8, "little") + written)
    return told.hexdigest()


def _read(path: Path) -> list[np.ndarray] | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, ends = arrays["ids"], arrays["ends"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return np.split(ids, ends[:-1])


def _write(path: Path, ids: list[np.ndarray]) -> None:
    ends = np.cumsum([len(one) for one in ids])
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with contextlib.suppress(OSError):  # no room, or no right to write: made anew next time
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                np.savez(file, allow_pickle=False, ids=np.concatenate(ids), ends=ends)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
