"""A prompt within a subspace of the vocabulary: rows A U, of which A [P, r] trains.

U [r, D] are the first principal directions of pieces drawn from the vocabulary, after the idea of
Qin et al. 2021 (https://arxiv.org/abs/2110.07867) that tasks need few directions.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, FixedParam, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import SampledVocabInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings


@settings
class SubspacePrompt(PromptMethod):
    """Settings: `length` P and `rank` r, at most `pieces`, from which U is computed."""

    length: int = 20
    rank: int = 10
    pieces: int = 1000

    def check(self):
        if not 1 <= self.rank <= self.pieces:
            raise UserError(
                Setting("SubspacePrompt", "rank", self.rank), remedy=f"give 1 to {self.pieces}"
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    def create(self, key: jax.Array, start: Start) -> "Mixed":
        rows = start.one(SampledVocabInit(), key, self.pieces)
        _, sizes, directions = jnp.linalg.svd(jnp.asarray(rows), full_matrices=False)
        spread = sizes[: self.rank, None] * self.pieces**-0.5  # so that A is of size 1
        shares = jax.random.normal(key, (self.length, self.rank))
        return Mixed(shares, spread * directions[: self.rank])

    def count(self, config: T5Config) -> int:
        """P r."""
        return self.length * self.rank


class Mixed(nnx.Module):
    """Owns A; U stays."""

    def __init__(self, shares_Pr: jax.Array, directions_rD: jax.Array):
        self.shares, self.directions = PromptParam(shares_Pr), FixedParam(directions_rD)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return PromptBundle(encoder=(self.shares[...] @ self.directions[...])[None])
