"""How the rows of a prompt begin (Lester et al. 2021, section 3.2, and their released code)."""

import abc
import dataclasses
import re
from collections.abc import Mapping

import jax
import numpy as np

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.parts.start import Rows, Start, pieces_of
from prompt_jax.settings import above, at_least, settings

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how SentencePiece writes the piece of a byte


class Init(abc.ABC):
    """How rows begin; concrete inits are settings classes."""

    @abc.abstractmethod
    def one(self, key: jax.Array, length: int, start: Start) -> np.ndarray:
        """float32 [length, D], the rows of one side."""

    def begin(self, key: jax.Array, lengths: Mapping[str, int], start: Start) -> Rows:
        """{side: float32 [length, D]} of each side with rows, each from a key of its own."""
        keys = jax.random.split(key)
        sides = zip(keys, lengths.items(), strict=False)
        return {side: self.one(k, length, start) for k, (side, length) in sides if length}


class DrawnInit(Init):
    """An init that makes rows out of the embedding table, [V, D]."""

    @abc.abstractmethod
    def __call__(self, key, length, embedding, vocabulary, choices) -> np.ndarray:
        """float32 [length, D]."""

    def one(self, key: jax.Array, length: int, start: Start) -> np.ndarray:
        return self(key, length, start.embedding, start.vocabulary, start.choices)


@settings
class UniformInit(DrawnInit):
    """Uniform noise. The paper says [-scale, scale); the released code draws from [0, scale).

    Attributes:
      scale: 0.5 in both.
      symmetric: True for the paper's reading, False for the released code's.
    """

    scale: float = 0.5
    symmetric: bool = True

    def check(self):
        above("UniformInit", 0, {"scale": self.scale})

    def __call__(self, key, length, embedding, vocabulary, choices):
        low = -self.scale if self.symmetric else 0.0
        draw = jax.random.uniform(key, (length, embedding.shape[1]), "float32", low, self.scale)
        return np.asarray(draw)


@settings
class SampledVocabInit(DrawnInit):
    """Rows of the embedding table, drawn from the first `population` ids without replacement.

    Lester et al. 2021 restrict the draw to the 5,000 commonest pieces. SentencePiece orders pieces
    by frequency, but for the ids before them: padding, EOS, unknown and, in vocabularies that fall
    back to bytes (mT5's, nano's and mnano's; not T5's), a piece of each byte. These are no text,
    and are left out; the released code draws from them too. A prompt longer than what is left is
    drawn with replacement. Without a vocabulary, or with one of bytes alone, all ids count.

    Attributes:
      population: how many ids there are to draw from.
      byte_pieces: whether those that are no text are among them, as in the released code.
    """

    population: int = 5000
    byte_pieces: bool = False

    def check(self):
        at_least("SampledVocabInit", 1, {"population": self.population})

    def __call__(self, key, length, embedding, vocabulary, choices):
        drawn = np.arange(min(self.population, len(embedding)))
        if not self.byte_pieces and vocabulary is not None and vocabulary.path is not None:
            drawn = drawn[_are_text(drawn, vocabulary)]
        if len(drawn) == 0:
            raise UserError(
                Setting("SampledVocabInit", "population", self.population),
                "none of these pieces is text",
                "give more, or byte_pieces=True",
            )
        numbers = jax.random.choice(key, len(drawn), (length,), replace=length > len(drawn))
        return np.asarray(embedding, np.float32)[drawn[np.asarray(numbers)]]


def _are_text(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """bool: which ids are pieces of text, neither special nor a byte."""
    special = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
    pieces = vocabulary.pieces(ids)
    return np.array(
        [
            token not in special and not BYTE.fullmatch(piece)
            for token, piece in zip(ids, pieces, strict=True)
        ]
    )


@settings
class ClassLabelInit(DrawnInit):
    """One row per class label, the mean of its pieces; sampled vocabulary fills the rest.

    Attributes:
      labels: the label texts; empty: those the task declares.
      population, byte_pieces: of the sampled rows, as of `SampledVocabInit`.
    """

    labels: tuple[str, ...] = ()
    population: int = 5000
    byte_pieces: bool = False

    def check(self):
        at_least("ClassLabelInit", 1, {"population": self.population})

    def __call__(self, key, length, embedding, vocabulary, choices):
        labels = self.labels or choices
        if not labels:
            raise UserError(
                Setting("ClassLabelInit", "labels", ()), "the task declares none", "bind them"
            )
        if len(labels) > length:
            raise UserError(
                "ClassLabelInit.labels",
                f"{len(labels)} of them, and only {length} prompt rows",
                f"set PROMPT_LENGTH to {len(labels)} or more, or bind fewer labels",
            )
        table = np.asarray(embedding, np.float32)
        known = [table[pieces_of(vocabulary, label)].mean(axis=0) for label in labels]
        fill = SampledVocabInit(population=self.population, byte_pieces=self.byte_pieces)
        rest = fill(key, length - len(known), embedding, vocabulary, choices)
        return np.concatenate([np.stack(known), rest])


@settings
class TextInit(DrawnInit):
    """The embeddings of a text's pieces, in order; sampled vocabulary fills the rest.

    Attributes:
      population, byte_pieces: of the sampled rows, as of `SampledVocabInit`.
    """

    text: str
    population: int = 5000
    byte_pieces: bool = False

    def check(self):
        at_least("TextInit", 1, {"population": self.population})

    def __call__(self, key, length, embedding, vocabulary, choices):
        ids = pieces_of(vocabulary, self.text)[:length]
        known = np.asarray(embedding, np.float32)[ids]
        fill = SampledVocabInit(population=self.population, byte_pieces=self.byte_pieces)
        rest = fill(key, length - len(known), embedding, vocabulary, choices)
        return np.concatenate([known, rest])


@settings
class NameInit(Init):
    """Rows of a task or language begin at the mean embedding of its name's pieces.

    So the attributes and objects of CSP begin (Nayak et al. 2023, section 4.1).

    Attributes:
      words: {name: the words for it}; other names are their own, with spaces for underscores.
    """

    words: dict[str, str] = dataclasses.field(default_factory=dict)

    def one(self, key: jax.Array, length: int, start: Start) -> np.ndarray:
        if not start.row:
            raise UserError(
                "NameInit", "these rows have no name", "give it to a method with rows of its tasks"
            )
        words = self.words.get(start.row, start.row.replace("_", " "))
        mean = start.embedding[pieces_of(start.vocabulary, words)].mean(axis=0)
        return np.tile(mean, (length, 1))


@settings
class FileInit(Init):
    """A saved prompt: an artefact, a prompt library's entry, or a `.npy` of exactly [length, D].

    So SPoT begins a target's prompt with a source's (Vu et al. 2022, section 3.1). The rows of each
    side begin with the file's rows of that side.

    Attributes:
      path: of the directory or the `.npy`.
      allow_other_backbone: take a prompt that was tuned for other weights of the same width.
    """

    path: str
    allow_other_backbone: bool = False

    def one(self, key: jax.Array, length: int, start: Start) -> np.ndarray:
        return self.begin(key, {"encoder": length}, start)["encoder"]

    def begin(self, key: jax.Array, lengths: Mapping[str, int], start: Start) -> Rows:
        return start.read(self.path, lengths, "FileInit.path", self.allow_other_backbone)
