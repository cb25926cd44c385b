"""(IA)3: keys, values and the MLP's hidden units, each scaled by a trained vector.

Liu et al. 2022 (https://arxiv.org/abs/2205.05638), section 3.3: softmax(Q (l_k * K)^T) (l_v * V) in
every attention and (l_ff * g(W_1 x)) W_2 in every MLP, all vectors 1 at first. Encoder layers have
3 vectors, decoder layers 5: self-attention, attention to the encoder, MLP.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam, depth_of
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import ATTENTIONS, PromptBundle, bundle_of
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import settings


@settings
class IA3(PromptMethod):
    """(IA)3 as the paper has it.

    Attributes:
      start: saved scales to begin at, as T-Few begins at those of a mixture; one that is not among
        them begins at 1, and so do all for None.
    """

    start: str | None = None

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def continued(self, path: str) -> "IA3":
        return dataclasses.replace(self, start=path)

    def create(self, key: jax.Array, start: Start) -> "Scales":
        scales = Scales(start.config)
        own = scales.named()
        shapes = {name: scale.shape for name, scale in own.items()}
        for name, value in start.arrays(self.start, shapes, "IA3.start", some=True).items():
            own[name][...] = jnp.asarray(value, jnp.float32)
        return scales

    def count(self, config: T5Config) -> int:
        """L_e (2 H K + F) + L_d (4 H K + F)."""
        HK, F = config.num_heads * config.head_dim, config.mlp_dim
        encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
        return encoder * (2 * HK + F) + decoder * (4 * HK + F)


class Scales(nnx.Module):
    """Owns float32 [L, H K] of keys and values of each attention, and [L, F] of each MLP."""

    def __init__(self, config: T5Config):
        HK, F = config.num_heads * config.head_dim, config.mlp_dim
        self.encoder, self.decoder, self.cross = (
            nnx.Dict({what: _ones(depth_of(name, config), HK) for what in ("key", "value")})
            for name in ATTENTIONS
        )
        self.encoder_mlp = _ones(config.num_encoder_layers, F)
        self.decoder_mlp = _ones(config.num_decoder_layers, F)

    def named(self) -> dict[str, PromptParam]:
        """The scales by their names in a bundle."""
        scales = zip(ATTENTIONS.values(), (self.encoder, self.decoder, self.cross), strict=True)
        return {
            **{
                f"{place}/{what}/output_scale": scale
                for place, pair in scales
                for what, scale in pair.items()
            },
            "encoder_layers/wo/input_scale": self.encoder_mlp,
            "decoder_layers/wo/input_scale": self.decoder_mlp,
        }

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        return bundle_of({name: scale[...] for name, scale in self.named().items()})


def _ones(layers: int, width: int) -> PromptParam:
    return PromptParam(jnp.ones((layers, width), jnp.float32), axes=("layers",))
