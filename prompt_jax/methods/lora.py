"""LoRA: a trained product of low rank beside frozen matrices of attention. A baseline.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685), section 4.1: h = W x + (alpha / r) B A x, with B
0 at first. A begins uniform in +-1/sqrt(inputs), as in the authors' released code. The paper adapts
queries and values (section 7.1).
"""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
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
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import ATTENTIONS, PromptBundle, bundle_of
from prompt_jax.model.layers import dropout, split_keys
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import above, at_least, settings, shares

Target = Literal["query", "key", "value", "out"]


@settings
class LoRA(PromptMethod):
    """Settings of LoRA.

    Attributes:
      rank: r (the paper: 8 for RoBERTa, 4 for GPT-2).
      alpha: the product is multiplied by alpha / rank (the paper's RoBERTa large: 16).
      targets: which matrices.
      attentions: of which attentions.
      dropout_rate: of the inputs of A while it trains, feature by feature, one mask for a batch.
      start: saved factors of the same rank and matrices to begin at; None: as above.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[Target, ...] = ("query", "value")
    attentions: Attentions = ("encoder", "decoder", "cross")
    dropout_rate: float = 0.0
    start: str | None = None

    def check(self):
        shares("LoRA", {"dropout_rate": self.dropout_rate})
        at_least("LoRA", 1, {"rank": self.rank})
        above("LoRA", 0, {"alpha": self.alpha})
        for field, names in (("targets", self.targets), ("attentions", self.attentions)):
            if not names:
                raise UserError(Setting("LoRA", field, ()), remedy="give at least one")

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def continued(self, path: str) -> "LoRA":
        return dataclasses.replace(self, start=path)

    def create(self, key: jax.Array, start: Start) -> "LowRank":
        factors = LowRank(self, start.config, key)
        own = factors.named()
        shapes = {name: factor.shape for name, factor in own.items()}
        for name, value in start.arrays(self.start, shapes, "LoRA.start").items():
            scale = factors.factor if name.endswith("/b") else 1.0  # saved with it
            own[name][...] = jnp.asarray(value / scale, jnp.float32)
        return factors

    def count(self, config: T5Config) -> int:
        """r (D + H K) for each matrix."""
        layers = sum(depth_of(name, config) for name in self.attentions)
        width = config.emb_dim + config.num_heads * config.head_dim
        return layers * len(self.targets) * self.rank * width


class LowRank(nnx.Module):
    """Owns A^T [L, inputs, r] and B^T [L, r, outputs] of each target: {target: {"a", "b"}}."""

    def __init__(self, method: LoRA, config: T5Config, key: jax.Array):
        self.factor, places = method.alpha / method.rank, {name: {} for name in ATTENTIONS}
        self.rate = method.dropout_rate
        for n, (name, target) in enumerate(itertools.product(method.attentions, method.targets)):
            L, k = depth_of(name, config), jax.random.fold_in(key, n)
            places[name][target] = _pair(method.rank, target, L, config, k)
        self.encoder, self.decoder, self.cross = (nnx.Dict(pairs) for pairs in places.values())

    def named(self) -> dict[str, PromptParam]:
        """The factors by their names in a bundle, which holds B times alpha / r."""
        places = zip(ATTENTIONS.values(), (self.encoder, self.decoder, self.cross), strict=True)
        return {
            f"{place}/{target}/{half}": factor
            for place, pairs in places
            for target, pair in pairs.items()
            for half, factor in pair.items()
        }

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        arrays = {}
        places = zip(ATTENTIONS.values(), (self.encoder, self.decoder, self.cross), strict=True)
        for n, (place, pairs) in enumerate(places):
            keys = split_keys(ctx.key, 3 * len(pairs))[n::3]
            for key, (target, pair) in zip(keys, pairs.items(), strict=True):
                a = dropout(pair["a"][...], self.rate, key, shared_dim=2)
                arrays[f"{place}/{target}/a"] = a
                arrays[f"{place}/{target}/b"] = pair["b"][...] * self.factor
        return bundle_of(arrays)


def _pair(rank: int, target: Target, L: int, config: T5Config, key: jax.Array) -> nnx.Dict:
    """A and B of one matrix."""
    D, HK = config.emb_dim, config.num_heads * config.head_dim
    inputs, outputs = (HK, D) if target == "out" else (D, HK)
    zeros = jnp.zeros((L, rank, outputs), jnp.float32)
    drawn = uniform(key, (L, inputs, rank), inputs**-0.5)[...]
    return nnx.Dict(a=PromptParam(drawn, axes=("layers",)), b=PromptParam(zeros, axes=("layers",)))
