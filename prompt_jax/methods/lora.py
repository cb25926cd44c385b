"""LoRA: a trained product of low rank beside frozen matrices of attention. A baseline.

Hu et al. 2021 (https://arxiv.org/abs/2106.09685), section 4.1: h = W x + (alpha / r) B A x, with B
0 at first. A begins uniform in +-1/sqrt(inputs), as in the authors' released code. The paper adapts
queries and values (section 7.1).
"""

from typing import Literal

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
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.model.bundle import PromptBundle, bundle_of
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import settings

Target = Literal["query", "key", "value", "out"]


@settings
class LoRA(PromptMethod):
    """Settings of LoRA.

    Attributes:
      rank: r (the paper: 8 for RoBERTa, 4 for GPT-2).
      alpha: the product is multiplied by alpha / rank (the paper's RoBERTa large: 16).
      targets: which matrices.
      attentions: of which attentions.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[Target, ...] = ("query", "value")
    attentions: Attentions = ("encoder", "decoder", "cross")

    def check(self):
        if self.rank < 1:
            raise UserError(Setting("LoRA", "rank", self.rank), remedy="give at least 1")
        for field in ("targets", "attentions"):
            if not vars(self)[field]:
                raise UserError(Setting("LoRA", field, ()), remedy="give at least one")

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def create(self, key: jax.Array, backbone, choices: tuple[str, ...] = ()) -> "LowRank":
        return LowRank(self, backbone.config, key)

    def shapes(self, config: T5Config) -> "LowRank":
        return nnx.eval_shape(lambda: LowRank(self, config, jax.random.key(0)))

    def count(self, config: T5Config) -> int:
        """r (D + H K) for each matrix."""
        layers = sum(depth_of(name, config) for name in self.attentions)
        width = config.emb_dim + config.num_heads * config.head_dim
        return layers * len(self.targets) * self.rank * width


class LowRank(nnx.Module):
    """Owns A^T [L, inputs, r] and B^T [L, r, outputs] of each target."""

    def __init__(self, how: LoRA, config: T5Config, key: jax.Array):
        self.factor = how.alpha / how.rank
        self.places = tuple((name, target) for name in how.attentions for target in how.targets)
        D, HK = config.emb_dim, config.num_heads * config.head_dim
        for n, (name, target) in enumerate(self.places):
            inputs, outputs = (HK, D) if target == "out" else (D, HK)
            L, k = depth_of(name, config), jax.random.fold_in(key, n)
            setattr(self, f"{name}_{target}_a", uniform(k, (L, inputs, how.rank), inputs**-0.5))
            zeros = jnp.zeros((L, how.rank, outputs), jnp.float32)
            setattr(self, f"{name}_{target}_b", PromptParam(zeros))

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        arrays = {}
        for name, target in self.places:
            place = f"{ATTENTIONS[name]}/{target}"
            arrays[f"{place}/a"] = vars(self)[f"{name}_{target}_a"][...]
            arrays[f"{place}/b"] = vars(self)[f"{name}_{target}_b"][...] * self.factor
        return bundle_of(arrays)
