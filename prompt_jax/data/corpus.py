"""Pretraining data: plain text files to span corruption or prefix language modelling.

Raffel et al. 2020 section 3.1.4 (15 % of the tokens in spans of mean length 3, one sentinel each)
and Lester et al. 2021 section 3.3 (a prefix in the encoder, its continuation in the decoder). Files
are tokenised once into one array; the rows of a step are a function of (seed, step) alone, every
row is full, so nothing is packed or padded.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prompt_jax.data.rows import Example
from prompt_jax.data.split import Shown
from prompt_jax.errors import Setting, UserError
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings
from prompt_jax.textfiles import check_file, left_out, paragraph_digest, read_lines

WINDOW = 1024  # rows over which languages keep their shares


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
      language_exponent: files of one folder are one language, and rows of a language of n tokens
        come in proportion to n to this power (mT5, Xue et al. 2021: 0.3); None: all are one text.
    """

    files: tuple[str, ...]
    root: str
    objective: Literal["span_corruption", "prefix_lm"]
    input_length: int
    target_length: int
    batch_size: int
    noise_density: float = 0.15
    mean_noise_span: float = 3.0
    language_exponent: float | None = None

    def check(self):
        sizes = {"input_length": self.input_length, "target_length": self.target_length}
        at_least("Corpus", 1, sizes | {"batch_size": self.batch_size})
        at_least("Corpus", 1, {"mean_noise_span": self.mean_noise_span})
        if not 0 < self.noise_density < 1:
            offender = Setting("Corpus", "noise_density", self.noise_density)
            raise UserError(offender, remedy="give more than 0, less than 1")
        if self.language_exponent is not None and not 0 <= self.language_exponent <= 1:
            raise UserError(
                Setting("Corpus", "language_exponent", self.language_exponent),
                remedy="give 0 (all languages alike) to 1 (as their texts are long)",
            )

    def read(self) -> "Corpus":
        """Checks that the files are there; their text is read when tokens are asked for."""
        for name in self.files:
            check_file(Path(self.root) / name)
        return self

    @property
    def task(self) -> None:
        """Plain text is of no task."""
        return None

    @property
    def examples(self) -> dict[str, Sequence[Example]]:
        """Plain text has no examples."""
        return {}

    def shortfalls(self) -> list[str]:
        """No number of lines was published."""
        return []

    def choices(self) -> tuple[str, ...]:
        """Plain text has no labels."""
        return ()

    def title(self) -> str:
        """What is trained on, in a few words."""
        return f"{self.objective} on {', '.join(self.files)}"

    def fact(self) -> str:
        """The data as checkpoints name them."""
        return repr(self)

    def shown(self, task: str) -> Shown:
        """Plain text has no examples to show."""
        return Shown()

    def demonstrated(self) -> dict[str, int]:
        """Nothing stands before plain text."""
        return {}

    def digest(self) -> str:
        """SHA-256 of the files' names, sizes and first and last mebibytes."""
        total = hashlib.sha256()
        for name in self.files:
            path = Path(self.root) / name
            with open(path, "rb") as file:
                first = file.read(1 << 20)
                file.seek(max(0, path.stat().st_size - (1 << 20)))
                total.update(f"{name} {path.stat().st_size}\n".encode() + first + file.read())
        return total.hexdigest()

    def features(self, layout: PromptLayout) -> dict[str, np.ndarray]:
        """A step's batch with nothing in it: the shapes and dtypes, for which no data are read."""
        lengths = (self.input_length, self.target_length)
        if self.objective == "span_corruption":
            _, noise, spans = corrupted_lengths(self)
            lengths = (self.input_length, noise + spans + 1)
        T, S = (np.zeros((self.batch_size, n), np.int32) for n in lengths)
        return {
            "encoder_input_tokens": T,
            "decoder_input_tokens": S,
            "decoder_target_tokens": S,
        }

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> "CorpusBatches":
        texts = [part.tokens(vocabulary) for part in self.languages()]
        return CorpusBatches(self, texts, vocabulary, seed)

    def languages(self) -> list["Corpus"]:
        """A corpus per language, by folder; all of it where none are told apart."""
        if self.language_exponent is None:
            return [self]
        folders: dict[str, list[str]] = {}
        for name in self.files:
            folders.setdefault(str(Path(name).parent), []).append(name)
        parts = (tuple(names) for names in folders.values())
        return [dataclasses.replace(self, files=names, language_exponent=None) for names in parts]

    @property
    def language(self) -> str:
        """The folder of the first file, which names the language; "" beside `root`."""
        return Path(self.files[0]).parent.name

    def lines(self) -> Iterator[str]:
        """Every paragraph of every file; an empty string ends a document. Those that share a run
        of words with a text that backbones are tested on are left out (`LEFT_OUT`)."""
        without = left_out()
        for name in self.files:
            for line in read_lines(Path(self.root) / name):
                if paragraph_digest(line) not in without:
                    yield line
            yield ""

    def _identity(self, name: str) -> tuple[str, int, int]:
        """What tells a file from another, or from its own later contents."""
        path = Path(self.root, name).resolve()
        check_file(path)
        return str(path), path.stat().st_size, path.stat().st_mtime_ns

    def tokens(self, vocabulary) -> np.ndarray:
        """All text as one array, uint16 or uint32 [n]; EOS ends each document. Kept in the
        machine's temporary folder for the next run."""
        decisive = [self._identity(name) for name in self.files]
        decisive = (decisive, vocabulary.digest, sorted(left_out()))
        key = hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]
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


class CorpusBatches:
    """Rows of a corpus by step: chunks of each text in a new random order each epoch, corrupted as
    told. Texts take turns in proportion to their shares, in every `WINDOW` rows anew.

    `texts`: the tokens of each language.
    """

    def __init__(self, corpus: Corpus, texts: list[np.ndarray], vocabulary, seed: int):
        self.corpus, self.texts, self.vocabulary, self.seed = corpus, texts, vocabulary, seed
        if corpus.objective == "span_corruption":
            self.chunk, self.noise, self.spans = corrupted_lengths(corpus)
        else:
            self.chunk = corpus.input_length + corpus.target_length - 2
        self.chunks = [(len(tokens) - self.chunk) // self.chunk for tokens in texts]
        if min(self.chunks) < 1:
            shortest = min(map(len, texts))
            raise UserError(
                "corpus",
                f"has {shortest} tokens, fewer than one row of {self.chunk}",
                "give more text or shorter rows",
            )
        self.shares = shares(list(map(len, texts)), corpus.language_exponent)
        self._turns = lru_cache(maxsize=4)(self._turns_of)
        self._order = lru_cache(maxsize=2 * len(texts))(self._order_of)

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

    def examples(self, step: int) -> int:
        return self.corpus.batch_size

    def _example(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        window, place = divmod(number, WINDOW)
        turns = self._turns(window)
        language = int(turns[place])
        nth = window * self.shares[language] + int((turns[:place] == language).sum())
        text = self._chunk(language, nth)
        if self.corpus.objective == "span_corruption":
            rng = np.random.default_rng([self.seed, 1, number])
            return corrupt(text, self.noise, self.spans, self.vocabulary.size, rng)
        cut = self.corpus.input_length - 1
        return np.append(text[:cut], EOS), np.append(text[cut:], EOS)

    def _turns_of(self, window: int) -> np.ndarray:
        """Which text each row of a window is of, int [WINDOW]."""
        turns = np.repeat(np.arange(len(self.shares)), self.shares)
        return np.random.default_rng([self.seed, 3, window]).permutation(turns)

    def _chunk(self, language: int, nth: int) -> np.ndarray:
        """The nth row of a text, counted from 0; each epoch cuts it elsewhere."""
        epoch, index = divmod(nth, self.chunks[language])
        rng = np.random.default_rng([self.seed, 0, epoch, language])
        shift = int(rng.integers(self.chunk))
        start = self._order(language, epoch)[index] * self.chunk + shift
        return np.asarray(self.texts[language][start : start + self.chunk], np.int64)

    def _order_of(self, language: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 2, epoch, language])
        return rng.permutation(self.chunks[language])

    def describe(self) -> dict[str, Any]:
        tokens, rows = sum(map(len, self.texts)), sum(self.chunks)
        return {"tokens": tokens, "rows_per_epoch": rows, "fill_rate": 1.0}

    def lengths(self) -> dict[str, Any]:
        """Text of a corpus has no examples of a length."""
        return {}


def shares(lengths: list[int], exponent: float | None) -> list[int]:
    """How many of `WINDOW` rows each text gets: in proportion to length**exponent, at least one.

    >>> shares([1000, 1], 0.5), shares([7], None)
    ([992, 32], [1024])
    """
    weights = np.asarray(lengths, float) ** (1.0 if exponent is None else exponent)
    exact = weights / weights.sum() * WINDOW
    counts = np.maximum(np.floor(exact).astype(int), 1)
    counts[np.argsort(counts - exact)[: WINDOW - counts.sum()]] += 1
    counts[np.argmax(counts)] += WINDOW - counts.sum()
    return counts.tolist()


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
            Setting("Corpus", "noise_density", corpus.noise_density),
            f"rows of {corpus.input_length} columns have no room for its spans",
            "take longer rows, a lower density or longer spans",
        )
    if noise + spans + 1 > corpus.target_length:
        raise UserError(
            Setting("Corpus", "target_length", corpus.target_length),
            (
                f"is too short for span corruption of {corpus.input_length} columns: it "
                f"takes {noise + spans + 1}"
            ),
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

    clean, lost = parts(len(text) - noise, spans), parts(noise, spans)
    inputs, targets, at = [], [], 0
    for k in range(spans):
        sentinel = [size - 1 - k]
        inputs += [text[at : at + clean[k]], sentinel]
        at += clean[k]
        targets += [sentinel, text[at : at + lost[k]]]
        at += lost[k]
    return np.concatenate([*inputs, [EOS]]), np.concatenate([*targets, [EOS]])
