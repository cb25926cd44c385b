"""How the rows of a prompt begin (Lester et al. 2021, section 3.2, and their released code).

Every init is called as `init(key, length, embedding, vocabulary, choices)` with `embedding` [V, D]
and gives float32 [length, D]. `begin` calls it for every side of a prompt.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from prompt_jax.errors import Setting, UserError
from prompt_jax.model.sharding import fetch
from prompt_jax.settings import settings


@settings
class UniformInit:
    """Uniform noise. The paper says [-scale, scale); the released code draws from [0, scale).

    Attributes:
      scale: 0.5 in both.
      symmetric: True for the paper's reading, False for the released code's.
    """

    scale: float = 0.5
    symmetric: bool = True

    def __call__(self, key, length, embedding, vocabulary, choices):
        low = -self.scale if self.symmetric else 0.0
        draw = jax.random.uniform(key, (length, embedding.shape[1]), "float32", low, self.scale)
        return np.asarray(draw)


@settings
class SampledVocabInit:
    """Rows of the embedding table, drawn from the first `population` ids without replacement.

    SentencePiece orders pieces by frequency, so these are the commonest ones. A prompt longer than
    the population is drawn with replacement.
    """

    population: int = 5000

    def check(self):
        if self.population < 1:
            raise UserError(
                Setting("SampledVocabInit", "population", self.population), remedy="give at least 1"
            )

    def __call__(self, key, length, embedding, vocabulary, choices):
        population = min(self.population, len(embedding))
        replace = length > population
        ids = jax.random.choice(key, population, (length,), replace=replace)
        return np.asarray(embedding, np.float32)[np.asarray(ids)]


@settings
class ClassLabelInit:
    """One row per class label, the mean of its pieces; sampled vocabulary fills the rest.

    Attributes:
      labels: the label texts; empty: those the task declares.
      population: of the sampled rows.
    """

    labels: tuple[str, ...] = ()
    population: int = 5000

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
        fill = SampledVocabInit(population=self.population)
        rest = fill(key, length - len(known), embedding, vocabulary, choices)
        return np.concatenate([np.stack(known), rest])


@settings
class TextInit:
    """The embeddings of a text's pieces, in order; sampled vocabulary fills the rest."""

    text: str
    population: int = 5000

    def __call__(self, key, length, embedding, vocabulary, choices):
        ids = pieces_of(vocabulary, self.text)[:length]
        known = np.asarray(embedding, np.float32)[ids]
        fill = SampledVocabInit(population=self.population)
        rest = fill(key, length - len(known), embedding, vocabulary, choices)
        return np.concatenate([known, rest])


@settings
class FileInit:
    """A saved prompt: an artefact, a prompt library's entry, or a `.npy` of exactly [length, D].

    So SPoT begins a target's prompt with a source's (Vu et al. 2022, section 3.1). The rows of each
    side begin with the file's rows of that side.

    Attributes:
      path: of the directory or the `.npy`.
      allow_other_backbone: take a prompt that was tuned for other weights of the same width.
    """

    path: str
    allow_other_backbone: bool = False

    def __call__(self, key, length, embedding, vocabulary, choices):
        from prompt_jax.prompt.library import load_value

        return self._fitting(load_value(self.path).array, "encoder", length, embedding.shape[1])

    def read(self, lengths: Mapping[str, int], backbone: Any) -> dict[str, np.ndarray]:
        """The rows of each side that has some, float32 [length, D].

        Raises:
          UserError: the prompt is of another backbone, or has other rows than the run.
        """
        prompt = self.load(backbone)
        if more := [side for side in prompt.arrays if not lengths.get(side)]:
            raise UserError(
                Setting("FileInit", "path", self.path),
                (
                    f"holds {more[0]} {list(prompt.arrays[more[0]].shape)}, for which the "
                    "run has no rows"
                ),
                "give it as many, or take another prompt",
            )
        width = backbone.config.emb_dim
        rows = {}
        for side, length in lengths.items():
            if length and side not in prompt.arrays:
                raise UserError(
                    Setting("FileInit", "path", self.path),
                    f"holds no {side} rows, the run needs {length}",
                    "give it none, or take another prompt",
                )
            if length:
                rows[side] = self._fitting(prompt.arrays[side], side, length, width)
        return rows

    def load(self, backbone: Any) -> Any:
        """The prompt; UserError if it was tuned for other weights or pieces than the backbone's."""
        from prompt_jax.prompt.artefact import check_tokenizer
        from prompt_jax.prompt.library import load_value

        prompt = load_value(self.path)
        if not prompt.manifest or self.allow_other_backbone:
            return prompt
        tuned = prompt.manifest["backbone"]
        if tuned["digest"] != backbone.digest:
            raise UserError(
                Setting("FileInit", "path", self.path),
                (
                    f"was tuned for {tuned['name']!r} ({tuned['digest'][:12]}), not for "
                    f"{backbone.name!r} ({backbone.digest[:12]})"
                ),
                ("train the source on this backbone, or bind FileInit.allow_other_backbone=True"),
            )
        check_tokenizer(prompt, backbone)
        return prompt

    def _fitting(self, rows: np.ndarray, side: str, length: int, width: int) -> np.ndarray:
        if rows.shape != (length, width):
            name = "PROMPT_LENGTH" if side == "encoder" else "SoftPrompt.decoder_length"
            raise UserError(
                Setting("FileInit", "path", self.path),
                f"holds {list(rows.shape)}, the run needs {[length, width]}",
                f"set {name} to {rows.shape[0]} or take another backbone",
            )
        return rows


def embedding_of(backbone: Any) -> np.ndarray:
    """The backbone's embedding table, float32 [V, D], whole on this host."""
    return fetch(backbone.model.token_embedder.embedding[...]).astype(np.float32)


Init = UniformInit | SampledVocabInit | ClassLabelInit | TextInit | FileInit


def begin(
    init: Init, key: jax.Array, lengths: Mapping[str, int], backbone: Any, choices: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """How the rows of each side begin that has some: {side: float32 [length, D]}."""
    if isinstance(init, FileInit):
        return init.read(lengths, backbone)
    table, keys = embedding_of(backbone), jax.random.split(key)
    return {
        side: init(k, length, table, backbone.vocabulary, choices)
        for k, (side, length) in zip(keys, lengths.items(), strict=False)
        if length
    }


def pieces_of(vocabulary, text: str) -> list[int]:
    """The token ids of a text, without EOS; UserError where there are none."""
    if vocabulary is None:
        raise UserError(
            repr(text), "cannot be embedded, for the backbone has no vocabulary", "bind VOCABULARY"
        )
    ids = vocabulary.encode(text)
    if not ids:
        raise UserError(
            repr(text),
            "cannot be embedded: the vocabulary gives no piece for it",
            "give another text",
        )
    return ids
