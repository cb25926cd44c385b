"""A prompt of low rank: its rows are made of two small matrices.

`product`: rows A B, A [P, r], B [r, D]: DPT (Xiao et al. 2023, https://arxiv.org/abs/2310.10094),
both uniform in +-0.5 at first; and the first form of LoPT (Guo et al. 2024,
https://arxiv.org/abs/2406.19486), begun here at what r dimensions can keep of an init. `mapped`:
rows gelu(X A) B, X [P, D] fixed, A [D, r], B [r, D]: the second form of LoPT. It folds to a plain
prompt [P, D].
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, FixedParam, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class LowRankPrompt(PromptMethod):
    """Settings of low-rank prompts.

    Attributes:
      length, rank: P and r (DPT: 100 and 10; LoPT: 20 and 2 to 5).
      form: `product` or `mapped`.
      init: the rows that A B begins nearest to; of `mapped`, X. None: noise, as DPT's.
      placement: where the rows stand.
    """

    length: int = 100
    rank: int = 10
    form: Literal["product", "mapped"] = "product"
    init: Init | None = None
    placement: Placement = "prefix"

    def check(self):
        at_least("LowRankPrompt", 1, {"length": self.length})
        if not 1 <= self.rank <= self.length:
            raise UserError(
                Setting("LowRankPrompt", "rank", self.rank), remedy=f"give 1 to {self.length}"
            )
        if self.form == "mapped" and self.init is None:
            raise UserError(
                Setting("LowRankPrompt", "form", "mapped"),
                "the fixed rows come from an init",
                "bind LowRankPrompt.init, as @SampledVocabInit()",
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, placement=self.placement)

    def create(self, key: jax.Array, start: Start) -> "Factors":
        D, keys = start.config.emb_dim, jax.random.split(key)
        if self.rank > D:
            raise UserError(
                Setting("LowRankPrompt", "rank", self.rank),
                f"the model is {D} wide",
                f"give 1 to {min(self.length, D)}",
            )
        if self.init is None:
            sizes = ((self.length, self.rank), (self.rank, D))
            return Factors(*(uniform(k, s, 0.5)[...] for k, s in zip(keys, sizes, strict=True)))
        rows = jnp.asarray(start.one(self.init, keys[0], self.length), jnp.float32)
        if self.form == "mapped":
            a = uniform(keys[1], (D, self.rank), D**-0.5)[...]
            return Factors(a, jnp.linalg.lstsq(jax.nn.gelu(rows @ a), rows)[0], rows)
        u, s, v = jnp.linalg.svd(rows, full_matrices=False)
        root = jnp.sqrt(s[: self.rank])
        return Factors(u[:, : self.rank] * root[None], root[:, None] * v[: self.rank])

    def count(self, config: T5Config) -> int:
        """r (P + D); of `mapped` 2 r D."""
        D = config.emb_dim
        return self.rank * ((self.length if self.form == "product" else D) + D)


class Factors(nnx.Module):
    """Owns A and B, float32; X [P, D] stays."""

    def __init__(self, a: jax.Array, b: jax.Array, fixed_PD: jax.Array | None = None):
        self.a, self.b = PromptParam(a), PromptParam(b)
        self.fixed = None if fixed_PD is None else FixedParam(fixed_PD)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        a = self.a[...]
        left = a if self.fixed is None else jax.nn.gelu(self.fixed[...] @ a)
        return PromptBundle(encoder=(left @ self.b[...])[None])
