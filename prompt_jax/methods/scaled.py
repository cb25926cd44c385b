"""Scaled prompt tuning: rows times a trained scale, s * P (Hu et al. 2023).

Source: https://arxiv.org/abs/2309.06759. The scale parts a row's length from its direction. The
paper does not say how many numbers it has: here one, one of each row, or one of each column. It is
the group `scale`, because prompt tuning's rate of 0.3 is far too large for it. It folds to a plain
prompt [P, D].
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init, SampledVocabInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class ScaledPrompt(PromptMethod):
    """Settings of scaled prompt tuning.

    Attributes:
      length: P.
      scale: one number for `all`, one for each of the `rows`, or one for each of the `columns`.
      init: how the rows begin; the scale begins at 1.
      placement: where the rows stand.
    """

    groups: ClassVar = {"scale": "scale"}
    length: int = 100
    scale: Literal["all", "rows", "columns"] = "all"
    init: Init = SampledVocabInit()
    placement: Placement = "prefix"

    def check(self):
        at_least("ScaledPrompt", 1, {"length": self.length})

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, placement=self.placement)

    def create(self, key: jax.Array, start: Start) -> "ScaledRows":
        return ScaledRows(start.one(self.init, key, self.length), self.shape(start.config))

    def count(self, config: T5Config) -> int:
        """P D, and 1, P or D."""
        rows, columns = self.shape(config)
        return self.length * config.emb_dim + rows * columns

    def shape(self, config: T5Config) -> tuple[int, int]:
        """Of the scale."""
        sizes = {"all": (1, 1), "rows": (self.length, 1), "columns": (1, config.emb_dim)}
        return sizes[self.scale]


class ScaledRows(nnx.Module):
    """Owns the rows, float32 [P, D], and their scale."""

    def __init__(self, rows_PD, shape: tuple[int, int]):
        self.rows = PromptParam(jnp.asarray(rows_PD, jnp.float32))
        self.scale = PromptParam(jnp.ones(shape, jnp.float32))

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return PromptBundle(encoder=(self.scale[...] * self.rows[...])[None])
