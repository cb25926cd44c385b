"""A prompt of low rank: rows A B, with A [P, r] and B [r, D] (Xiao et al. 2023)."""

import jax
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings


@settings
class LowRankPrompt(PromptMethod):
    """Settings: `length` P and `rank` r, the paper's 100 and 10."""

    length: int = 100
    rank: int = 10

    def check(self):
        if self.rank < 1:
            raise UserError(Setting("LowRankPrompt", "rank", self.rank), remedy="give at least 1")

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    def create(self, key: jax.Array, start: Start) -> "Factors":
        return Factors(self, start.config, key)

    def count(self, config: T5Config) -> int:
        """r (P + D)."""
        return self.rank * (self.length + config.emb_dim)


class Factors(nnx.Module):
    """Owns A and B, both uniform in +-0.5 at first."""

    def __init__(self, how: LowRankPrompt, config: T5Config, key: jax.Array):
        keys = jax.random.split(key)
        self.a = uniform(keys[0], (how.length, how.rank), 0.5)
        self.b = uniform(keys[1], (how.rank, config.emb_dim), 0.5)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return PromptBundle(encoder=(self.a[...] @ self.b[...])[None])
