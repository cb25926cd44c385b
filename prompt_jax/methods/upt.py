"""Unified prompt tuning: prompts of both stacks out of one seed, through a small transformer.

UPT, Zang et al. 2022 (https://arxiv.org/abs/2210.07225), section 3.2, which makes text and image
prompts of one seed; here the encoder's and the decoder's rows. Seed U [P + P', w]; one pre-norm
layer of self-attention with four heads and an MLP of 4 w with ReLU; then a linear map w -> D of
each side: the first P rows are the encoder's, the others the decoder's. It is computed once a step
and folds to a plain prompt [P, D] and [P', D].
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.networks import MLP, LayerNorm, Linear, mlp_count
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings

HEADS = 4


@settings
class UnifiedPrompt(PromptMethod):
    """Settings of UPT; the group `network` is all but the seed.

    Attributes:
      length, decoder_length: P and P'.
      width: w, a multiple of 4.
    """

    groups: ClassVar = dict.fromkeys(
        ("attention", "out", "mlp", "norms", "encoder", "decoder"), "network"
    )
    length: int = 16
    decoder_length: int = 4
    width: int = 64

    def check(self):
        lengths = {"length": self.length, "decoder_length": self.decoder_length}
        at_least("UnifiedPrompt", 1, lengths)
        if self.width < HEADS or self.width % HEADS:
            raise UserError(
                Setting("UnifiedPrompt", "width", self.width), remedy=f"give a multiple of {HEADS}"
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, decoder=self.decoder_length)

    def create(self, key: jax.Array, start: Start) -> "Seed":
        return Seed(self, key, start.config.emb_dim)

    def count(self, config: T5Config) -> int:
        """(P + P') w, and 3 w w + 3 w, w w + w, 8 w w + 5 w, 4 w of the layer, 2 (w D + D)."""
        w, D = self.width, config.emb_dim
        layer = mlp_count((w, 3 * w)) + mlp_count((w, w)) + mlp_count((w, 4 * w, w)) + 4 * w
        return (self.length + self.decoder_length) * w + layer + 2 * mlp_count((w, D))


class Seed(nnx.Module):
    """Owns U float32 [P + P', w], from N(0, 1), and the network."""

    def __init__(self, method: UnifiedPrompt, key: jax.Array, width: int):
        k, w = jax.random.split(key, 6), method.width
        rows = method.length + method.decoder_length
        self.rows = PromptParam(jax.random.normal(k[0], (rows, w), jnp.float32))
        self.attention, self.out = Linear(k[1], w, 3 * w), Linear(k[2], w, w)
        self.mlp = MLP(k[3], (w, 4 * w, w), "relu")
        self.norms = nnx.List([LayerNorm(w), LayerNorm(w)])
        self.encoder, self.decoder = Linear(k[4], w, width), Linear(k[5], w, width)
        self.length = method.length

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        x = self.rows[...]
        x = x + self._attended(self.norms[0](x))
        x = x + self.mlp(self.norms[1](x))
        encoder, decoder = self.encoder(x[: self.length]), self.decoder(x[self.length :])
        return PromptBundle(encoder=encoder[None], decoder=decoder[None])

    def _attended(self, x: jax.Array) -> jax.Array:
        """Self-attention of all rows, [P + P', w]."""
        heads = self.attention(x).reshape(len(x), 3, HEADS, -1)
        query, key, value = jnp.moveaxis(heads, 1, 0)
        return self.out(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))
