"""Prefix tuning: P trained keys and values before those of the text, in every layer.

Li & Liang 2021 (https://arxiv.org/abs/2101.00190): attention over [K_P; K], [V_P; V]. The prefix is
M = MLP(E) with E [P, D] and MLP: D -> `hidden` -> 2 L H K (section 4.3), one E and MLP for each
kind of attention, or a table of its own per layer. P-tuning v2 (Liu et al. 2022,
https://arxiv.org/abs/2110.07602) is the same in self-attention alone, for all sizes and tasks;
`gin/methods/p_tuning_v2.gin` says what it changes.

Every column sees the prefix, packed or not. It stands at no position, so that its bias is 0, or
right before the text; the latter in the decoder alone is what PEFT's prefixes of a T5 are.
L layers, H heads of width K, D model width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

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
from prompt_jax.methods.parts.networks import MLP, Activation, mlp_count
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import ATTENTIONS, PrefixPositions, PromptBundle, bundle_of
from prompt_jax.model.layers import dropout, split_keys
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import above, at_least, settings, shares


@settings
class PrefixTuning(PromptMethod):
    """Settings of prefix tuning; the group `network` is the MLPs.

    Attributes:
      length: P (the paper: 10 for table-to-text, 200 for summaries).
      attentions: where: `encoder` and `decoder` self-attention, `cross`; the paper: all three.
      positions: of the keys of self-attention: `none`, or `before` the text.
      hidden: width of the MLP that makes keys and values (the paper: 512 or 800); None: they are
        trained themselves, which the paper found unstable.
      activation: of the MLP.
      scale: standard deviation of what is drawn at first, E or the keys and values themselves.
      dropout_rate: of keys and values while they train, one mask for a batch (P-tuning v2: the
        model's own rate).
      saved: an artefact of as many keys, from which they begin, without an MLP; None: drawn.
    """

    groups: ClassVar = dict.fromkeys(("encoder.mlp", "decoder.mlp", "cross.mlp"), "network")
    length: int = 10
    attentions: Attentions = ("encoder", "decoder", "cross")
    positions: PrefixPositions = "none"
    hidden: int | None = 512
    activation: Activation = "tanh"
    scale: float = 1.0
    dropout_rate: float = 0.0
    saved: str | None = None

    def check(self):
        shares("PrefixTuning", {"dropout_rate": self.dropout_rate})
        at_least("PrefixTuning", 1, {"length": self.length, "hidden": self.hidden})
        above("PrefixTuning", 0, {"scale": self.scale})
        if self.saved is not None and self.hidden is not None:
            raise UserError(
                Setting("PrefixTuning", "saved", self.saved),
                "keys out of an MLP do not begin with saved ones",
                "bind PrefixTuning.hidden = None",
            )
        if not self.attentions:
            raise UserError(
                Setting("PrefixTuning", "attentions", ()), remedy="give encoder, decoder or cross"
            )

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def seen(self) -> dict[str, Any]:
        positions = {} if self.positions == "none" else {"prefix_positions": self.positions}
        return {**super().seen(), **positions}

    def begun_from(self, path: str, length: int | None = None) -> "PrefixTuning | None":
        return None if self.hidden is not None else dataclasses.replace(self, saved=path)

    def with_keys(self, keys: int) -> "PrefixTuning":
        return dataclasses.replace(self, length=keys)

    def create(self, key: jax.Array, start: Start) -> "Prefixes":
        prefixes = Prefixes(self, start.config, key)
        prompt = None if self.saved is None else start.prompt(self.saved, "PrefixTuning.saved")
        if prompt is not None and prompt.prefix_positions != self.positions:
            problem = f"has keys whose positions are {prompt.prefix_positions!r}"
            where = f"PrefixTuning.saved = {self.saved!r}"
            raise UserError(where, problem, "bind PrefixTuning.positions to that")
        width, shapes = start.config.num_heads * start.config.head_dim, {}
        for name in self.attentions:
            shape = (depth_of(name, start.config), self.length, width)
            shapes |= {f"{ATTENTIONS[name]}/{half}": shape for half in ("keys", "values")}
        if saved := start.arrays(self.saved, shapes, "PrefixTuning.saved"):
            prefixes.begin(saved)
        return prefixes

    def count(self, config: T5Config) -> int:
        """Over the attentions: 2 L P H K, or with an MLP P D + D m + m + (m + 1) 2 L H K."""
        HK, total = config.num_heads * config.head_dim, 0
        for name in self.attentions:
            out = 2 * depth_of(name, config) * HK
            if self.hidden is None:
                total += self.length * out
            else:
                widths = (config.emb_dim, self.hidden, out)
                total += self.length * config.emb_dim + mlp_count(widths)
        return total


class Prefixes(nnx.Module):
    """Owns a table of each attention that has a prefix."""

    def __init__(self, method: PrefixTuning, config: T5Config, key: jax.Array):
        self.attentions, self.rate = method.attentions, method.dropout_rate
        self.positions: PrefixPositions = method.positions
        tables = {
            name: Table(method, depth_of(name, config), config, jax.random.fold_in(key, n))
            for n, name in enumerate(method.attentions)
        }
        self.encoder, self.decoder, self.cross = (tables.get(name) for name in ATTENTIONS)

    def begin(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes keys and values [L, P, H K]."""
        tables = (self.encoder, self.decoder, self.cross)
        for place, table in zip(ATTENTIONS.values(), tables, strict=True):
            if table is not None:
                halves = np.stack([arrays[f"{place}/keys"], arrays[f"{place}/values"]])
                rows = halves.transpose(2, 0, 1, 3).reshape(table.rows.shape)
                table.rows[...] = jnp.asarray(rows, jnp.float32)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        tables = {"encoder": self.encoder, "decoder": self.decoder, "cross": self.cross}
        keys, arrays = split_keys(ctx.key, len(self.attentions)), {}
        for name, key in zip(self.attentions, keys, strict=True):
            table = tables[name]
            assert table is not None
            halves = dropout(table(), self.rate, key, shared_dim=None)
            arrays[f"{ATTENTIONS[name]}/keys"] = halves[0]
            arrays[f"{ATTENTIONS[name]}/values"] = halves[1]
        return bundle_of(arrays, prefix_positions=self.positions)


class Table(nnx.Module):
    """Owns the keys and values of one attention, [P, 2 L H K], or E [P, D] and the MLP that makes
    them; called, it gives float32 [2, L, P, H K]."""

    def __init__(self, method: PrefixTuning, depth: int, config: T5Config, key: jax.Array):
        keys, self.depth = jax.random.split(key), depth
        out = 2 * depth * config.num_heads * config.head_dim
        width = out if method.hidden is None else config.emb_dim
        draw = method.scale * jax.random.normal(keys[0], (method.length, width), jnp.float32)
        self.rows = PromptParam(draw)
        widths = None if method.hidden is None else (config.emb_dim, method.hidden, out)
        self.mlp = None if widths is None else MLP(keys[1], widths, method.activation)

    def __call__(self) -> jax.Array:
        rows = self.rows[...]
        table = rows if self.mlp is None else self.mlp(rows)
        return table.reshape(len(table), 2, self.depth, -1).transpose(1, 2, 0, 3)
