"""E2VPT: rows before every layer of the encoder, and prompts among the keys and values.

After Han et al. 2023 (https://arxiv.org/abs/2307.13770), who tune a vision transformer. What enters
encoder layer l is [R_l; h], and its attention also sees K_l, which stands for keys and for values
alike: softmax(Q [K_l; K]^T) [K_l; V]. On a T5 the decoder's self-attention may have such a table
too. Rows, keys, and pieces of both that matter least are then pruned, and what stays goes back to
what it was and is trained again (`run/prune.py`).

P rows, P_k keys of each attention, L layers of a stack, C heads times head width, D model width.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import (
    STILL,
    Attentions,
    Context,
    PromptMethod,
    PromptParam,
    depth_of,
)
from prompt_jax.methods.parts.inits import Init, UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import ATTENTIONS, PromptBundle, bundle_of
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings

ROWS = "encoder_layers/rows"


@settings
class E2VPT(PromptMethod):
    """Settings of E2VPT.

    Attributes:
      length: P, of every layer of the encoder (the released grid: 1 to 32).
      keys: P_k, of every attention in `attentions` (the released code: 5).
      attentions: `encoder`, `decoder` self-attention, `cross`; the paper has an encoder alone.
      init: how rows begin; keys begin uniform in +-sqrt(6 / C), He et al.'s for their width.
      saved: an artefact of this method from which all of them begin; None: `init`.
    """

    length: int = 10
    keys: int = 5
    attentions: Attentions = ("encoder",)
    init: Init = UniformInit()
    saved: str | None = None

    def check(self):
        at_least("E2VPT", 1, {"length": self.length, "keys": self.keys})
        if not self.attentions:
            raise UserError(
                Setting("E2VPT", "attentions", ()), remedy="give encoder, decoder or cross"
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    def begun_from(self, path: str, length: int | None = None) -> "E2VPT":
        return dataclasses.replace(self, saved=path, length=length or self.length)

    def with_keys(self, keys: int) -> "E2VPT":
        return dataclasses.replace(self, keys=keys)

    def create(self, key: jax.Array, start: Start) -> "RowsAndKeys":
        config, shapes = start.config, self._shapes(start.config)
        whole = {"encoder": shapes[ROWS][1:], **shapes}
        whole |= {name.replace("/keys", "/values"): shape for name, shape in shapes.items()}
        if saved := start.arrays(self.saved, whole, "E2VPT.saved"):
            return RowsAndKeys(self, saved)
        rows_key, keys_key = jax.random.split(key)
        of_layers = jax.random.split(rows_key, config.num_encoder_layers)
        arrays: dict[str, np.ndarray | jax.Array]
        arrays = {ROWS: np.stack([start.one(self.init, k, self.length) for k in of_layers])}
        for n, name in enumerate(self.attentions):
            shape = shapes[f"{ATTENTIONS[name]}/keys"]
            bound, draw = (6 / shape[-1]) ** 0.5, jax.random.fold_in(keys_key, n)
            arrays[f"{ATTENTIONS[name]}/keys"] = jax.random.uniform(
                draw, shape, jnp.float32, -bound, bound
            )
        return RowsAndKeys(self, arrays)

    def _shapes(self, config: T5Config) -> dict[str, tuple[int, ...]]:
        """Of what trains, by its name in a bundle."""
        C = config.num_heads * config.head_dim
        shapes = {ROWS: (config.num_encoder_layers, self.length, config.emb_dim)}
        for name in self.attentions:
            shapes[f"{ATTENTIONS[name]}/keys"] = (depth_of(name, config), self.keys, C)
        return shapes

    def count(self, config: T5Config) -> int:
        """L P D, and L P_k C of every attention."""
        return sum(int(np.prod(shape)) for shape in self._shapes(config).values())


class RowsAndKeys(nnx.Module):
    """Owns float32 [L, P, D], and [L, P_k, C] of each attention, which are keys and values both."""

    def __init__(self, method: E2VPT, arrays: Mapping[str, np.ndarray | jax.Array]):
        def param(name: str) -> PromptParam | None:
            if name not in arrays:
                return None
            return PromptParam(jnp.asarray(arrays[name], jnp.float32), axes=("layers",))

        self.rows = PromptParam(jnp.asarray(arrays[ROWS], jnp.float32), axes=("layers",))
        self.encoder, self.decoder, self.cross = (
            param(f"{place}/keys") for place in ATTENTIONS.values()
        )

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        rows = self.rows[...]
        arrays = {"encoder": rows[0], ROWS: rows}
        tables = (self.encoder, self.decoder, self.cross)
        for place, table in zip(ATTENTIONS.values(), tables, strict=True):
            if table is not None:
                arrays |= {f"{place}/keys": table[...], f"{place}/values": table[...]}
        return bundle_of(arrays)
