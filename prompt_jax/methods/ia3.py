"""(IA)3: keys, values and the MLP's hidden units, each scaled by a trained vector.

Liu et al. 2022 (https://arxiv.org/abs/2205.05638), section 3.3: softmax(Q (l_k * K)^T) (l_v * V) in
every attention and (l_ff * g(W_1 x)) W_2 in every MLP, all vectors 1 at first. Encoder layers have
3 vectors, decoder layers 5: self-attention, attention to the encoder, MLP.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import ATTENTIONS, STILL, Context, PromptMethod, PromptParam, depth_of
from prompt_jax.model.bundle import PromptBundle, bundle_of
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout
from prompt_jax.settings import settings


@settings
class IA3(PromptMethod):
    """(IA)3 as the paper has it: there is nothing to set."""

    @property
    def layout(self) -> PromptLayout:
        return NO_ROWS

    def create(self, key: jax.Array, backbone, choices: tuple[str, ...] = ()) -> "Scales":
        return Scales(backbone.config)

    def shapes(self, config: T5Config) -> "Scales":
        return nnx.eval_shape(lambda: Scales(config))

    def count(self, config: T5Config) -> int:
        """L_e (2 H K + F) + L_d (4 H K + F)."""
        HK, F = config.num_heads * config.head_dim, config.mlp_dim
        encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
        return encoder * (2 * HK + F) + decoder * (4 * HK + F)


class Scales(nnx.Module):
    """Owns float32 [L, H K] of keys and values of each attention, and [L, F] of each MLP."""

    def __init__(self, config: T5Config):
        HK, F = config.num_heads * config.head_dim, config.mlp_dim
        for name in ATTENTIONS:
            for what in ("key", "value"):
                ones = jnp.ones((depth_of(name, config), HK), jnp.float32)
                setattr(self, f"{name}_{what}", PromptParam(ones))
        self.encoder_mlp = PromptParam(jnp.ones((config.num_encoder_layers, F), jnp.float32))
        self.decoder_mlp = PromptParam(jnp.ones((config.num_decoder_layers, F), jnp.float32))

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        arrays = {
            f"{place}/{what}/output_scale": vars(self)[f"{name}_{what}"][...]
            for name, place in ATTENTIONS.items()
            for what in ("key", "value")
        }
        arrays["encoder_layers/wo/input_scale"] = self.encoder_mlp[...]
        arrays["decoder_layers/wo/input_scale"] = self.decoder_mlp[...]
        return bundle_of(arrays)
