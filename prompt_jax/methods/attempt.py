"""ATTEMPT: a prompt that each example mixes for itself out of saved ones and a trained one.

Asai et al. 2022 (https://arxiv.org/abs/2205.11961), section 2: source prompts S_1 .. S_K, tuned on
large tasks, stay as they are; the target's prompt and a small network, which weighs all of them by
the example's text, are trained. What the network does is in `mixture.py`. It does not fold to a
plain prompt; its artefact holds sources, prompt and network. In place of the authors' pooling over
padding, an example's own tokens alone are pooled, so that its length in a batch changes nothing.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, FixedParam, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import FileInit, Init, SampledVocabInit, begin
from prompt_jax.methods.parts.networks import uniform
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.mixture import Mixture
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import settings


@settings
class Attempt(PromptMethod):
    """Settings of ATTEMPT; the group `network` weighs the prompts.

    Attributes:
      sources: saved prompts of the same backbone and length (the paper: six).
      length: P (the paper: 100).
      hidden: r, the width of the network (the paper: 100).
      temperature: what scores are divided by; None: D e, as the paper.
      init: how the target's prompt begins.
      placement: where the rows stand.
    """

    groups: ClassVar = dict.fromkeys(("down", "up", "scale", "bias"), "network")
    sources: tuple[str, ...] = ()
    length: int = 100
    hidden: int = 100
    temperature: float | None = None
    init: Init = SampledVocabInit()
    placement: Placement = "prefix"

    def check(self):
        if not self.sources:
            raise UserError(
                Setting("Attempt", "sources", ()), remedy="name saved prompts, at least one"
            )
        if self.length < 1 or self.hidden < 1:
            raise UserError(
                Setting("Attempt", "length", self.length),
                f"with hidden = {self.hidden}",
                "give at least 1",
            )
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(
                Setting("Attempt", "temperature", self.temperature), remedy="give more than 0"
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, placement=self.placement)

    def create(self, key: jax.Array, backbone, choices: tuple[str, ...] = ()) -> "Mixing":
        lengths, keys = {"encoder": self.length}, jax.random.split(key)
        try:
            saved = [FileInit(path=path).read(lengths, backbone) for path in self.sources]
        except UserError as error:
            offender = Setting("Attempt", "sources", self.sources)
            raise UserError(offender, error.fault, error.remedy) from None
        sources = np.stack([rows["encoder"] for rows in saved])
        rows = begin(self.init, keys[0], lengths, backbone, choices)["encoder"]
        return Mixing(self, keys[1], jnp.asarray(rows), jnp.asarray(sources))

    def shapes(self, config: T5Config) -> "Mixing":
        def build():
            rows = jnp.zeros((self.length, config.emb_dim))
            sources = jnp.zeros((len(self.sources), *rows.shape))
            return Mixing(self, jax.random.key(0), rows, sources)

        return nnx.eval_shape(build)

    def count(self, config: T5Config) -> int:
        """P D + 2 D r + 2 D."""
        return config.emb_dim * (self.length + 2 * self.hidden + 2)


class Mixing(nnx.Module):
    """Owns the target's prompt [P, D] and the network; holds the sources [K, P, D]."""

    def __init__(self, how: Attempt, key: jax.Array, rows: jax.Array, sources: jax.Array):
        keys, D = jax.random.split(key), rows.shape[1]
        self.rows = PromptParam(rows.astype(jnp.float32))
        self.sources = FixedParam(sources.astype(jnp.float32))
        self.down = uniform(keys[0], (D, how.hidden), D**-0.5)
        self.up = uniform(keys[1], (how.hidden, D), how.hidden**-0.5)
        self.scale = PromptParam(jnp.ones((D,), jnp.float32))
        self.bias = PromptParam(jnp.zeros((D,), jnp.float32))
        self.temperature = D * math.e if how.temperature is None else how.temperature

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        mixture = Mixture(
            sources=self.sources[...],
            down=self.down[...],
            up=self.up[...],
            scale=self.scale[...] / self.temperature,
            bias=self.bias[...] / self.temperature,
        )
        return PromptBundle(encoder=self.rows[...][None], mixture=mixture)
