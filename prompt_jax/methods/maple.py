"""Coupled prompts: rows that enter every encoder layer, and the decoder's as a map of them.

MaPLe, Khattak et al. 2023 (https://arxiv.org/abs/2210.03117), section 3.2, where the rows of the
image encoder are a linear map of those of the text encoder, layer by layer. Here encoder rows P_l
[P, D] and decoder rows P_l U_l V_l of the same layer, U_l [D, r], V_l [r, D]: full maps would be
far larger than the prompt. Every layer has rows (the paper: the first nine of twelve), which take
the place of those of the layer before. An artefact holds rows of layers for both stacks.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init, UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import LayerEdit, PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class CoupledPrompt(PromptMethod):
    """Settings of coupled prompts.

    Attributes:
      length: P, of every layer of both stacks (the paper: 2).
      rank: r.
      init: how the encoder's rows begin.
    """

    length: int = 2
    rank: int = 16
    init: Init = UniformInit()

    def check(self):
        at_least("CoupledPrompt", 1, {"length": self.length, "rank": self.rank})

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, decoder=self.length)

    def create(self, key: jax.Array, start: Start) -> "Coupled":
        config, keys = start.config, jax.random.split(key, 3)
        of_layers = jax.random.split(keys[0], config.num_encoder_layers)
        rows = np.stack([start.one(self.init, k, self.length) for k in of_layers])
        return Coupled(keys[1:], rows, config.num_decoder_layers, self.rank)

    def count(self, config: T5Config) -> int:
        """L_e P D + 2 L_d D r."""
        rows = config.num_encoder_layers * self.length
        return (rows + 2 * config.num_decoder_layers * self.rank) * config.emb_dim


class Coupled(nnx.Module):
    """Owns rows float32 [L_e, P, D], and maps [L_d, D, r] and [L_d, r, D], whose product keeps the
    size of rows at first. A decoder with more layers than the encoder maps its last rows again."""

    def __init__(self, keys: jax.Array, rows_LPD: np.ndarray, layers: int, rank: int):
        D = rows_LPD.shape[2]

        def normal(key, *shape: int, size: float) -> PromptParam:
            return PromptParam(size * jax.random.normal(key, shape, jnp.float32), axes=("layers",))

        self.rows = PromptParam(jnp.asarray(rows_LPD, jnp.float32), axes=("layers",))
        self.down = normal(keys[0], layers, D, rank, size=D**-0.5)
        self.up = normal(keys[1], layers, rank, D, size=rank**-0.5)

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        encoder, down, up = self.rows[...], self.down[...], self.up[...]
        of_layer = jnp.minimum(jnp.arange(len(down)), len(encoder) - 1)
        decoder = encoder[of_layer] @ down @ up
        return PromptBundle(
            encoder=encoder[:1],
            decoder=decoder[:1],
            encoder_layers=LayerEdit(rows=encoder[:, None]),
            decoder_layers=LayerEdit(rows=decoder[:, None]),
        )
