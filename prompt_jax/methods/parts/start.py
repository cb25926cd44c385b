"""What a method's module begins from: sizes, embeddings and pieces of a backbone; saved prompts."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.model.sharding import fetch
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.artefact import Prompt, check_backbone, check_tokenizer
from prompt_jax.prompt.factors import size
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.prompt.library import load_value

Rows = dict[str, np.ndarray]  # by side, float32 [P, D]


class Beginning(Protocol):
    """How rows begin: an init of `inits.py`, or a user's."""

    def one(self, key: jax.Array, length: int, start: "Start") -> np.ndarray: ...
    def begin(self, key: jax.Array, lengths: Mapping[str, int], start: "Start") -> Rows: ...


class Start:
    """What `PromptMethod.create` may look at.

    Attributes:
      config: the sizes of the T5.
      vocabulary: of the backbone; None where it has none.
      choices: the label texts of the task; () where it declares none.
      name, digest: of the backbone, for messages and checks.
      row: the name of the task or language whose rows begin now; "" where they have none.
      saved: the digests of the saved prompts that were read, by their paths.
    """

    row = ""

    def __init__(self, backbone: Any, choices: tuple[str, ...] = ()):
        self.config: T5Config = backbone.config
        self.vocabulary, self.choices = backbone.vocabulary, choices
        self.name, self.digest = backbone.name, backbone.digest
        self._backbone = backbone
        self.saved: dict[str, str] = {}

    @cached_property
    def embedding(self) -> np.ndarray:
        """The embedding table, float32 [V, D], whole on this host."""
        return embedding_of(self._backbone)

    def rows(self, init: Beginning, key: jax.Array, lengths: Mapping[str, int]) -> Rows:
        """How the rows of each side begin that has some, by an init."""
        return init.begin(key, lengths, self)

    def one(self, init: Beginning, key: jax.Array, length: int, row: str = "") -> np.ndarray:
        """How the rows of one side, or of task or language `row`, begin, float32 [length, D]."""
        of_row = copy.copy(self)
        of_row.row = row
        return init.one(key, length, of_row)

    def text(self, text: str, length: int, setting: str) -> np.ndarray:
        """The embeddings of a text's pieces, float32 [length, D].

        Raises:
          UserError: the text has another number of pieces; `setting` is where it is from.
        """
        return self.parts((text,), length, setting)[0]

    def parts(
        self, texts: Sequence[str], length: int, setting: str
    ) -> tuple[np.ndarray, Sequence[int]]:
        """The embeddings of the pieces of several texts in turn, float32 [length, D], and how many
        pieces each has; () where they are not known yet. Errors as of `text`."""
        pieces = [pieces_of(self.vocabulary, text) for text in texts]
        ids = [piece for of_text in pieces for piece in of_text]
        if len(ids) != length:
            raise UserError(
                setting,
                f"has {len(ids)} pieces, and the prompt {length} rows",
                f"set PROMPT_LENGTH to {len(ids)}",
            )
        return self.embedding[np.asarray(ids)], [len(of_text) for of_text in pieces]

    def prompt(self, path: str, setting: str, allow_other: bool = False) -> Prompt | None:
        """A saved prompt: an artefact, a library's entry or a `.npy`.

        Raises:
          UserError: it was tuned for other weights or pieces; `setting` is where `path` is from.
        """
        prompt = load_value(path)
        self.saved[path] = prompt.digest
        if not prompt.manifest or allow_other:
            return prompt
        tuned = prompt.manifest["backbone"]
        if tuned["digest"] != self.digest:
            remedy = "train the source on this backbone"
            if setting.startswith("FileInit."):
                remedy += ", or bind FileInit.allow_other_backbone=True"
            raise UserError(
                f"{setting} = {path!r}",
                f"was tuned for {tuned['name']!r} ({tuned['digest'][:12]}), not for "
                f"{self.name!r} ({self.digest[:12]})",
                remedy,
            )
        check_tokenizer(prompt, self)
        return prompt

    def arrays(
        self,
        path: str | None,
        shapes: Mapping[str, tuple[int, ...]],
        setting: str,
        some: bool = False,
    ) -> Mapping[str, np.ndarray]:
        """The arrays of a saved prompt, by their names in a bundle, of these shapes; `some`: it may
        lack some of them. {} where `path` is None, and for shapes alone.

        Raises:
          UserError: the prompt is of another backbone, or holds other arrays than the run.
        """
        prompt = None if path is None else self.prompt(path, setting)
        if prompt is None:
            return {}
        where, remedy = f"{setting} = {path!r}", "give the settings of that prompt, or take another"
        for name, value in prompt.arrays.items():
            if name not in shapes:
                problem = f"holds {name}, for which the run has no place"
                raise UserError(where, problem, remedy)
            if value.shape != shapes[name]:
                problem = f"holds {name} {list(value.shape)}, the run needs {list(shapes[name])}"
                raise UserError(where, problem, remedy)
        if missing := [name for name in shapes if name not in prompt.arrays and not some]:
            raise UserError(where, f"holds no {missing[0]}, which the run needs", remedy)
        return prompt.arrays

    def read(
        self, path: str, lengths: Mapping[str, int], setting: str, allow_other: bool = False
    ) -> Rows:
        """The rows of a saved prompt, of each side that has some here, float32 [length, D].

        Raises:
          UserError: the prompt is of another backbone, or has other rows than the run.
        """
        prompt = self.prompt(path, setting, allow_other)
        assert prompt is not None
        if more := [side for side in prompt.arrays if not lengths.get(side)]:
            raise UserError(
                f"{setting} = {path!r}",
                f"holds {more[0]} {list(prompt.arrays[more[0]].shape)}, for which the run has no "
                "rows",
                "give it as many, or take another prompt",
            )
        rows = {}
        for side, length in lengths.items():
            if length and side not in prompt.arrays:
                raise UserError(
                    f"{setting} = {path!r}",
                    f"holds no {side} rows, the run needs {length}",
                    "give it none, or take another prompt",
                )
            if length:
                rows[side] = _fitting(
                    prompt.arrays[side],
                    side,
                    (length, self.config.emb_dim),
                    f"{setting} = {path!r}",
                )
        return rows

    def prompts(self, paths: Sequence[str], layout: PromptLayout, setting: str) -> Sequence[Prompt]:
        """Artefacts that were tuned for this backbone."""
        saved = [load_value(path) for path in paths]
        for prompt in saved:
            if not prompt.manifest:
                raise UserError(setting, f"{prompt.path!r} is not an artefact", "import it")
            check_backbone(prompt, self)
            self.saved[prompt.path] = prompt.digest
        return saved


class Shapes(Start):
    """The same without values, for the shapes of a module: nothing is read, all rows are zeros."""

    def __init__(self, config: T5Config):
        self.config, self.vocabulary, self.choices = config, None, ()
        self.name = self.digest = ""

    def _zeros(self, length: int) -> np.ndarray:
        return np.zeros((length, self.config.emb_dim), np.float32)

    def rows(self, init: Beginning, key: jax.Array, lengths: Mapping[str, int]) -> Rows:
        return {side: self._zeros(length) for side, length in lengths.items() if length}

    def one(self, init: Beginning, key: jax.Array, length: int, row: str = "") -> np.ndarray:
        return self._zeros(length)

    def text(self, text: str, length: int, setting: str) -> np.ndarray:
        return self._zeros(length)

    def parts(
        self, texts: Sequence[str], length: int, setting: str
    ) -> tuple[np.ndarray, Sequence[int]]:
        return self._zeros(length), ()

    def prompt(self, path: str, setting: str, allow_other: bool = False) -> Prompt | None:
        return None

    def read(
        self, path: str, lengths: Mapping[str, int], setting: str, allow_other: bool = False
    ) -> Rows:
        return {side: self._zeros(length) for side, length in lengths.items() if length}

    def prompts(self, paths: Sequence[str], layout: PromptLayout, setting: str) -> Sequence[Prompt]:
        lengths = layout.plain_rows()
        if layout.factors:
            lengths["encoder"] = size(layout.factors)
        rows = {side: self._zeros(length) for side, length in lengths.items()}
        visibility = {"input": True, "prompt": "all"}
        factors = [dataclasses.asdict(factor) for factor in layout.factors]
        manifest = {"placement": layout.placement, "visibility": visibility, "factors": factors}
        return [Prompt(rows, manifest, path) for path in paths or [""]]


def _fitting(rows: np.ndarray, side: str, shape: tuple[int, int], where: str) -> np.ndarray:
    if rows.shape != shape:
        name = "PROMPT_LENGTH" if side == "encoder" else "SoftPrompt.decoder_length"
        raise UserError(
            where,
            f"holds {list(rows.shape)}, the run needs {list(shape)}",
            f"set {name} to {rows.shape[0]} or take another backbone",
        )
    return rows


def embedding_of(backbone: Any) -> np.ndarray:
    """The backbone's embedding table, float32 [V, D], whole on this host."""
    return fetch(backbone.model.token_embedder.embedding[...]).astype(np.float32)


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
