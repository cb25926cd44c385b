"""Which backbone a recipe takes, and how a run holds it."""

import dataclasses

import jax

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import Setting, UserError
from prompt_jax.model import activations, attend, quantised, t5
from prompt_jax.settings import settings, shares


@settings
class BackboneSettings:
    """Which frozen model, and how it is held.

    Attributes:
      name: `nano`, `hf:NAME_OR_DIR`, `t5x:DIR`, `files:DIR`, or `random:SIZE?seed=0` for controls.
      dtype: of weights and activations.
      weights_dtype: `int8`, `int4` or `float8_e4m3fn`: of the large matrices; `none`: as `dtype`;
        None: as stored, which is as `dtype` but for a quantised copy.
      vocabulary: a SentencePiece file, `bytes`, or None: the backbone's own.
      dropout_rate: inside the frozen model while training (T5X's recipes: 0.1).
      remat: what the backward pass finds saved: `none`, `full`, `dots` (`activations.REMAT`).
      attention: `xla`, or a kernel that keeps no attention weights: `cudnn` on GPUs, `pallas` on
        TPUs (`attend`), both with dropout_rate 0 alone.
    """

    name: str
    dtype: str = "bfloat16"
    weights_dtype: str | None = None
    vocabulary: str | None = None
    dropout_rate: float = 0.1
    remat: str = "none"
    attention: str = "xla"

    def check(self):
        if self.remat not in activations.REMAT:
            known = list(activations.REMAT)
            raise UserError(
                Setting("BackboneSettings", "remat", self.remat), remedy=f"give one of {known}"
            )
        shares("BackboneSettings", {"dropout_rate": self.dropout_rate})
        attend.check(self.attention, self.dropout_rate, self.dtype)
        quantised.check(self.weights_dtype)

    def load(self, mesh: jax.sharding.Mesh | None = None) -> Backbone:
        attend.check_platform(self.attention, jax.default_backend())
        backbone = load_backbone(self.name, self.dtype, self.vocabulary, mesh, self.weights_dtype)
        config = self.configure(backbone.config)
        model = weights.reconfigured(backbone.model, config)
        return dataclasses.replace(backbone, config=config, model=model)

    def configure(self, config: t5.T5Config) -> t5.T5Config:
        """A backbone's config with what the recipe decides of it."""
        return dataclasses.replace(
            config,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
            remat=self.remat,
            attention=self.attention,
        )
