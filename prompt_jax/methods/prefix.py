"""Prefix tuning: P trained keys and values before those of the text, in every layer.

Li & Liang 2021 (https://arxiv.org/abs/2101.00190): attention over [K_P; K], [V_P; V]. The prefix is
M = MLP(E) with E [P, D] and MLP: D -> `hidden` -> 2 L H K (section 4.3), one E and MLP for each
kind of attention, or a table of its own per layer. P-tuning v2 (Liu et al. 2022,
https://arxiv.org/abs/2110.07602) is the same in self-attention alone, for all sizes and tasks;
`gin/methods/p_tuning_v2.gin` says what it changes.

A prefix stands at no position, so its bias is 0, and every column sees it, packed or not: PEFT's
prefixes of a T5 never reach the encoder, these do. L layers, H heads of width K, D model width.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import (
    ATTENTIONS,
    STILL,
    Attentions,
    Context,
    PromptMethod,
    PromptParam,
    depth_of,
)
from prompt_jax.methods.parts.networks import MLP, Activation, mlp_count
from prompt_jax.model.bundle import PromptBundle, bundle_of
from prompt_jax.model.layers import dropout, split_keys
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import settings


@settings
class PrefixTuning(PromptMethod):
    """Settings of prefix tuning; the group `network` is the MLPs.

    Attributes:
      length: P (the paper: 10 for table-to-text, 200 for summaries).
      attentions: where: `encoder` and `decoder` self-attention, `cross`; the paper: all three.
      hidden: width of the MLP that makes keys and values (the paper: 512 or 800); None: they are
        trained themselves, which the paper found unstable.
      activation: of the MLP.
      scale: standard deviation of what is drawn at first, E or the keys and values themselves.
      dropout_rate: of keys and values while they train, one mask for a batch (P-tuning v2: the
        model's own rate).
    """

    groups: ClassVar = dict.fromkeys(("encoder_mlp", "decoder_mlp", "cross_mlp"), "network")
    length: int = 10
    attentions: Attentions = ("encoder", "decoder", "cross")
    hidden: int | None = 512
    activation: Activation = "tanh"
    scale: float = 1.0
    dropout_rate: float = 0.0

    def check(self):
        if not 0 <= self.dropout_rate < 1:
            raise UserError(
                Setting("PrefixTuning", "dropout_rate", self.dropout_rate),
                remedy="give 0 or more, less than 1",
            )
        if self.length < 1 or (self.hidden is not None and self.hidden < 1):
            raise UserError(
                Setting("PrefixTuning", "length", self.length),
                f"with hidden = {self.hidden}",
                "give at least 1",
            )
        if not self.attentions:
            raise UserError(
                Setting("PrefixTuning", "attentions", ()), remedy="give encoder, decoder or cross"
            )

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def create(self, key: jax.Array, backbone, choices: tuple[str, ...] = ()) -> "Prefixes":
        return Prefixes(self, backbone.config, key)

    def shapes(self, config: T5Config) -> "Prefixes":
        return nnx.eval_shape(lambda: Prefixes(self, config, jax.random.key(0)))

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
    """Owns one table [P, 2 L H K] per attention, or E [P, D] and the MLP that makes the table."""

    def __init__(self, how: PrefixTuning, config: T5Config, key: jax.Array):
        self.attentions, self.rate = how.attentions, how.dropout_rate
        self.depths = tuple(depth_of(name, config) for name in how.attentions)
        HK = config.num_heads * config.head_dim
        for n, name in enumerate(how.attentions):
            keys = jax.random.split(jax.random.fold_in(key, n))
            out = 2 * self.depths[n] * HK
            width = out if how.hidden is None else config.emb_dim
            draw = how.scale * jax.random.normal(keys[0], (how.length, width), jnp.float32)
            setattr(self, f"{name}_rows", PromptParam(draw))
            if how.hidden is not None:
                mlp = MLP(keys[1], (config.emb_dim, how.hidden, out), how.activation)
                setattr(self, f"{name}_mlp", mlp)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        arrays = {}
        keys = split_keys(ctx.key, len(self.attentions))
        for name, depth, key in zip(self.attentions, self.depths, keys, strict=True):
            table = vars(self)[f"{name}_rows"][...]
            if f"{name}_mlp" in vars(self):
                table = vars(self)[f"{name}_mlp"](table)
            halves = table.reshape(len(table), 2, depth, -1).transpose(1, 2, 0, 3)
            halves = dropout(halves, self.rate, key, shared_dim=None)
            arrays[f"{ATTENTIONS[name]}/keys"] = halves[0]
            arrays[f"{ATTENTIONS[name]}/values"] = halves[1]
        return bundle_of(arrays)
