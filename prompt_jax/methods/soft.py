"""Prompt tuning: P trained rows beside the embedded text of a frozen T5.

Lester et al. 2021 (https://arxiv.org/abs/2104.08691). Encoder input [P_e; E(x)], or the rows after
the text; optionally decoder input [P_d; E(y)]. P = length, P' = decoder_length.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import FileInit, Init, SampledVocabInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle, Visibility, bundle_of
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class SoftPrompt(PromptMethod):
    """Settings of prompt tuning.

    Attributes:
      length: rows in the encoder (the paper: 100).
      init: how the rows of each side begin.
      placement: where the encoder's rows stand; the paper: `prefix`.
      marks: of `infix`: ids of the pieces behind which the rows stand, in equal parts.
      decoder_length: rows before the decoder's start token (the paper: 0).
      visibility: what prompt rows attend to; the paper: everything. Rows that do not see the input
        may be `computed_once`, as prefix or suffix.
    """

    length: int = 100
    init: Init = SampledVocabInit()
    placement: Placement = "prefix"
    marks: tuple[int, ...] = ()
    decoder_length: int = 0
    visibility: Visibility = Visibility()

    def check(self):
        lengths = {"length": self.length, "decoder_length": self.decoder_length}
        at_least("SoftPrompt", 0, lengths)
        if self.length + self.decoder_length == 0:
            raise UserError(
                Setting("SoftPrompt", "length", self.length),
                f"with decoder_length = {self.decoder_length}",
                "give at least one row",
            )
        _ = self.layout
        if self.visibility.computed_once and self.placement not in ("prefix", "suffix"):
            raise UserError(
                Setting("SoftPrompt", "placement", self.placement),
                "rows that are computed once stand before the text or after it",
                "take prefix or suffix, or leave Visibility.computed_once out",
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(
            encoder=self.length,
            placement=self.placement,
            decoder=self.decoder_length,
            computed_once=self.visibility.computed_once,
            marks=self.marks,
        )

    def begun_from(self, path: str, length: int | None = None) -> "SoftPrompt":
        return dataclasses.replace(self, init=FileInit(path=path), length=length or self.length)

    def create(self, key: jax.Array, start: Start) -> "SoftPromptModule":
        lengths = {"encoder": self.length, "decoder": self.decoder_length}
        rows = start.rows(self.init, key, lengths)
        sides = (rows.get("encoder"), rows.get("decoder"))
        return SoftPromptModule(*sides, self.visibility, self.placement == "suffix")

    def count(self, config: T5Config) -> int:
        """(P + P') * D."""
        return (self.length + self.decoder_length) * config.emb_dim


class SoftPromptModule(nnx.Module):
    """Owns the rows: float32 [P, D] and [P', D], each optional."""

    def __init__(
        self, encoder, decoder=None, visibility: Visibility | None = None, after_text: bool = False
    ):
        self.encoder = _param(encoder)
        self.decoder = _param(decoder)
        self.visibility = visibility or Visibility()
        self.after_text = after_text

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        names = zip(("encoder", "decoder"), self._sides(), strict=True)
        rows = {name: param[...] for name, param in names if param is not None}
        return bundle_of(rows, self.visibility, after_text=self.after_text)

    def _sides(self) -> tuple[PromptParam | None, PromptParam | None]:
        return self.encoder, self.decoder


def _param(rows) -> PromptParam | None:
    return None if rows is None else PromptParam(jnp.asarray(rows, jnp.float32))
