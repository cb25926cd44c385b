"""Pretraining data: plain text files to span corruption or prefix language modelling.

Raffel et al. 2020 section 3.1.4 (15 % of the tokens in spans of mean length 3, one sentinel each)
and Lester et al. 2021 section 3.3 (a prefix in the encoder, its continuation in the decoder). Files
are tokenised once into one array; the rows of a step are a function of (seed, step) alone, every
row is full, so nothing is packed or padded.
"""

import hashlib
import lzma
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.layout import EOS, PromptLayout
from prompt_jax.settings import settings


@settings
class Corpus:
    """Settings of pretraining data; used where a run otherwise has `Data`.

    Attributes:
      files: text files, plain or `.xz`, one paragraph per line, blank lines between documents;
        relative paths are taken from `root`.
      root: the folder of the files.
      objective: `span_corruption` or `prefix_lm`.
      input_length: encoder columns of a row.
      target_length: decoder columns of a row.
      batch_size: rows per step.
      noise_density, mean_noise_span: of span corruption.
    """

    files: tuple[str, ...]
    root: str
    objective: Literal["span_corruption", "prefix_lm"]
    input_length: int
    target_length: int
    batch_size: int
    noise_density: float = 0.15
    mean_noise_span: float = 3.0

    def read(self) -> "Corpus":
        """Checks that the files are there; their text is read when tokens are asked for."""
        for name in self.files:
            check_file(Path(self.root) / name)
        return self

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> "CorpusBatches":
        return CorpusBatches(self, self.tokens(vocabulary), vocabulary, seed)

    def lines(self) -> Iterator[str]:
        """Every paragraph of every file; an empty string ends a document."""
        for name in self.files:
            yield from read_lines(Path(self.root) / name)
            yield ""

    def _identity(self, name: str) -> tuple[str, int, int]:
        """What tells a file from another, or from its own later contents."""
        path = Path(self.root, name).resolve()
        check_file(path)
        return str(path), path.stat().st_size, path.stat().st_mtime_ns

    def tokens(self, vocabulary) -> np.ndarray:
        """All text as one array, uint16 or uint32 [n]; EOS ends each document. Kept in the
        machine's temporary folder for the next run."""
        told = [self._identity(name) for name in self.files]
        key = hashlib.sha256(repr((told, vocabulary.digest)).encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / "prompt_jax" / f"tokens-{key}.npy"
        if not path.exists():
            ids: list[int] = []
            for line in self.lines():
                if line:
                    ids.extend(vocabulary.encode(line))
                elif ids and ids[-1] != EOS:  # several blank lines end one document
                    ids.append(EOS)
            dtype = np.uint16 if vocabulary.size <= 2**16 else np.uint32
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.npy")
            np.save(partial, np.asarray(ids, dtype), allow_pickle=False)
            partial.rename(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"corpus file {str(path)!r} does not exist: set Corpus.root or .files")


def read_lines(path: Path) -> Iterator[str]:
    check_file(path)
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.strip()


class CorpusBatches:
    """Rows of a corpus by step: chunks in a new random order each epoch, corrupted as told."""

    def __init__(self, corpus: Corpus, tokens: np.ndarray, vocabulary, seed: int):
        self.corpus, self.tokens, self.vocabulary, self.seed = corpus, tokens, vocabulary, seed
        if corpus.objective == "span_corruption":
            self.chunk, self.noise, self.spans = corrupted_lengths(corpus)
        else:
            self.chunk = corpus.input_length + corpus.target_length - 2
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)
        self.chunks = (len(tokens) - self.chunk) // self.chunk
        if self.chunks < 1:
            raise UserError(f"corpus has {len(tokens)} tokens, fewer than one row of {self.chunk}")

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        size = self.corpus.batch_size
        numbers = range(step * size, (step + 1) * size)[rows]
        examples = [self._example(number) for number in numbers]
        inputs, targets = (np.stack(side).astype(np.int32) for side in zip(*examples, strict=True))
        shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
        return {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": shifted,
            "decoder_target_tokens": targets,
        }

    def _example(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, index = divmod(number, self.chunks)
        shift = int(np.random.default_rng([self.seed, 0, epoch]).integers(self.chunk))
        start = self._order(epoch)[index] * self.chunk + shift
        text = np.asarray(self.tokens[start : start + self.chunk], np.int64)
        if self.corpus.objective == "span_corruption":
            rng = np.random.default_rng([self.seed, 1, number])
            return corrupt(text, self.noise, self.spans, self.vocabulary.size, rng)
        cut = self.corpus.input_length - 1
        return np.append(text[:cut], EOS), np.append(text[cut:], EOS)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch != epoch:
            rng = np.random.default_rng([self.seed, 2, epoch])
            self._epoch, self._permutation = epoch, rng.permutation(self.chunks)
        return self._permutation

    def describe(self) -> dict[str, Any]:
        return {"tokens": len(self.tokens), "rows_per_epoch": self.chunks, "fill_rate": 1.0}


def corrupted_lengths(corpus: Corpus) -> tuple[int, int, int]:
    """(text tokens, noise tokens, spans) whose corruption fills INPUT_LENGTH, EOS included."""

    def lengths(chunk):
        noise = max(round(chunk * corpus.noise_density), 1)
        return noise, max(round(noise / corpus.mean_noise_span), 1)

    chunk = corpus.input_length
    while chunk + 1 - lengths(chunk + 1)[0] + lengths(chunk + 1)[1] + 1 <= corpus.input_length:
        chunk += 1
    noise, spans = lengths(chunk)
    if chunk - noise < spans or chunk - noise + spans + 1 > corpus.input_length:
        raise UserError(
            f"Corpus.noise_density = {corpus.noise_density}: rows of {corpus.input_length} columns "
            "have no room for its spans; take longer rows, a lower density or longer spans"
        )
    if noise + spans + 1 > corpus.target_length:
        raise UserError(
            f"Corpus.target_length = {corpus.target_length} is too short for span corruption of "
            f"{corpus.input_length} columns: it takes {noise + spans + 1}"
        )
    return chunk, noise, spans


def corrupt(text, noise: int, spans: int, size: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Span corruption of one chunk: inputs with a sentinel per span, targets with the spans.

    Span k is replaced by sentinel `size - 1 - k` (`<extra_id_k>`); targets list each sentinel and
    its span. Both end in EOS; lengths depend on (len(text), noise, spans) alone.
    """

    def parts(total, count):  # `count` random positive lengths that add up to `total`
        cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
        return np.diff(np.concatenate([[0], cuts, [total]]))

    kept, lost = parts(len(text) - noise, spans), parts(noise, spans)
    inputs, targets, at = [], [], 0
    for k in range(spans):
        sentinel = [size - 1 - k]
        inputs += [text[at : at + kept[k]], sentinel]
        at += kept[k]
        targets += [sentinel, text[at : at + lost[k]]]
        at += lost[k]
    return np.concatenate([*inputs, [EOS]]), np.concatenate([*targets, [EOS]])
