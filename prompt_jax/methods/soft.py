"""Prompt tuning: P trained rows beside the embedded text of a frozen T5.

Lester et al. 2021 (https://arxiv.org/abs/2104.08691). Encoder input [P_e; E(x)], or the rows after
the text; optionally decoder input [P_d; E(y)]. P = length, P' = decoder_length.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init, SampledVocabInit, begin
from prompt_jax.model.bundle import PromptBundle, Visibility
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import settings


@settings
class SoftPrompt(PromptMethod):
    """Settings of prompt tuning.

    Attributes:
      length: rows in the encoder (the paper: 100).
      init: how the rows of each side begin.
      placement: where the encoder's rows stand; the paper: `prefix`.
      decoder_length: rows before the decoder's start token (the paper: 0).
      visibility: what prompt rows attend to; the paper: everything.
    """

    length: int = 100
    init: Init = SampledVocabInit()
    placement: Placement = "prefix"
    decoder_length: int = 0
    visibility: Visibility = Visibility()

    def check(self):
        if self.length < 0 or self.decoder_length < 0 or self.length + self.decoder_length == 0:
            raise UserError(
                Setting("SoftPrompt", "length", self.length),
                f"with decoder_length = {self.decoder_length}",
                "give at least one row",
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(
            encoder=self.length, placement=self.placement, decoder=self.decoder_length
        )

    def create(self, key: jax.Array, backbone, choices: tuple[str, ...] = ()) -> "SoftPromptModule":
        lengths = {"encoder": self.length, "decoder": self.decoder_length}
        rows = begin(self.init, key, lengths, backbone, choices)
        return SoftPromptModule(rows.get("encoder"), rows.get("decoder"), self.visibility)

    def shapes(self, config: T5Config) -> "SoftPromptModule":
        def build():
            lengths = (self.length, self.decoder_length)
            encoder, decoder = (jnp.zeros((n, config.emb_dim)) if n else None for n in lengths)
            return SoftPromptModule(encoder, decoder, self.visibility)

        return nnx.eval_shape(build)

    def count(self, config: T5Config) -> int:
        """(P + P') * D."""
        return (self.length + self.decoder_length) * config.emb_dim

    def manifest(self) -> dict[str, Any]:
        visibility = {"input": self.visibility.input, "prompt": self.visibility.prompt}
        return {**super().manifest(), "placement": self.placement, "visibility": visibility}


class SoftPromptModule(nnx.Module):
    """Owns the rows: float32 [P, D] and [P', D], each optional."""

    def __init__(self, encoder, decoder=None, visibility: Visibility | None = None):
        if encoder is not None:
            self.encoder = PromptParam(jnp.asarray(encoder, jnp.float32))
        if decoder is not None:
            self.decoder = PromptParam(jnp.asarray(decoder, jnp.float32))
        self.visibility = visibility or Visibility()

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        rows: dict[str, Any] = {
            name: v[...][None] for name, v in vars(self).items() if isinstance(v, PromptParam)
        }
        return PromptBundle(**rows, visibility=self.visibility)
