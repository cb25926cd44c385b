"""DePT: a short prompt, and an offset of low rank on the embeddings of the text.

Shi & Lipani 2024 (https://arxiv.org/abs/2309.05173), section 2.2. Encoder input [P_s; E(x) + c A
B]: row j of A B, A [N, r], B [r, D], is added to the j-th piece of an example's text, wherever the
example stands in a packed row; c = alpha / sqrt(r) and alpha = 8 are the released code's. The
offset learns at a rate of its own, about a thousandth of the prompt's: it is the group `offset`. m
= length.

`A B` travels with the rows: an artefact holds `encoder` [m, D] and `encoder_offset` [N, D].
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init, SampledVocabInit
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import above, at_least, settings


@settings
class DePT(PromptMethod):
    """Settings of DePT.

    Attributes:
      length: m, rows of the short prompt.
      rank: r.
      max_length: N; pieces of a text from the N-th on get no offset.
      alpha: c = alpha / sqrt(r).
      init: how the rows begin (the released code: a sentence, repeated, the same for every task).
    """

    groups: ClassVar = {"offset": "offset"}
    length: int = 60
    rank: int = 30
    max_length: int = 256
    alpha: float = 8.0
    init: Init = SampledVocabInit()

    def check(self):
        sizes = {"length": self.length, "rank": self.rank, "max_length": self.max_length}
        at_least("DePT", 1, sizes)
        above("DePT", 0, {"alpha": self.alpha})

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    def create(self, key: jax.Array, start: Start) -> "ShortPrompt":
        keys = jax.random.split(key)
        rows = start.one(self.init, keys[0], self.length)
        sizes = (self.max_length, self.rank, start.config.emb_dim)
        return ShortPrompt(rows, Offset(keys[1], *sizes, self.alpha))

    def count(self, config: T5Config) -> int:
        """m D + r (N + D)."""
        D = config.emb_dim
        return self.length * D + self.rank * (self.max_length + D)


class Offset(nnx.Module):
    """Owns A [N, r], uniform in +-1/sqrt(r), and B [r, D], zeros at first; gives c A B [N, D]."""

    def __init__(self, key: jax.Array, length: int, rank: int, width: int, alpha: float):
        self.a = uniform(key, (length, rank), rank**-0.5)
        self.b = PromptParam(jnp.zeros((rank, width), jnp.float32))
        self.factor = alpha * rank**-0.5

    def __call__(self) -> jax.Array:
        return self.factor * (self.a[...] @ self.b[...])


class ShortPrompt(nnx.Module):
    """Owns the rows, float32 [m, D], and the offset."""

    def __init__(self, rows_PD, offset: Offset):
        self.rows = PromptParam(jnp.asarray(rows_PD, jnp.float32))
        self.offset = offset

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return PromptBundle(encoder=self.rows[...][None], encoder_offset=self.offset()[None])
