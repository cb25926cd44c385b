"""A context whose embeddings may move a little: rows E(w_i) + delta_i, of which delta trains.

Context-aware prompt tuning, Blau et al. 2024 (https://arxiv.org/abs/2410.17222): the context is a
few demonstrations, and |delta_i| is kept small after each step (`rules.NormBall`). There the rows
of labels stay, and the labels of the context are predicted as well (`cpt.CPT`); here all rows move,
and only the example's own target is predicted. P = length, D = model width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class ContextPrompt(PromptMethod):
    """Settings: the `text` of the context and its `length` in pieces, which must agree."""

    text: str
    length: int

    def check(self):
        at_least("ContextPrompt", 1, {"length": self.length})

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length)

    def create(self, key: jax.Array, start: Start) -> "Moved":
        return Moved(start.text(self.text, self.length, "ContextPrompt.text"))

    def count(self, config: T5Config) -> int:
        """P D."""
        return self.length * config.emb_dim


class Moved(nnx.Module):
    """Owns delta float32 [P, D], zeros at first; the text's rows [P, D] stay."""

    def __init__(self, text_PD: Any):
        self.text = nnx.Variable(jnp.asarray(text_PD, jnp.float32))
        self.delta = PromptParam(jnp.zeros(self.text[...].shape, jnp.float32))

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return PromptBundle(encoder=(self.text[...] + self.delta[...])[None])
