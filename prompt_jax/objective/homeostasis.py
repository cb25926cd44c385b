"""A prompt that stays near where it began in what earlier steps have shown to matter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from prompt_jax.errors import Setting, UserError
from prompt_jax.objective.rules import GradRule
from prompt_jax.settings import settings


class Sensitivity(NamedTuple):
    """The state of `Homeostasis`.

    Attributes:
      mean_square: of past gradients, in the shapes of what trains.
      start: what trained at step 0.
    """

    mean_square: Any
    start: Any


@settings
class Homeostasis(GradRule):
    """g + strength F (p - p_0): F the running mean of squared gradients, p_0 where training began.

    Gan et al. 2023 (https://arxiv.org/abs/2212.04145) accumulate how sensitive the loss is to each
    parameter of a prompt and hold those back that mattered before; the penalty is that of
    Kirkpatrick et al. 2017 (https://arxiv.org/abs/1612.00796), equation 3. For prompts that begin
    as a saved one (`FileInit`): what the source needed changes least. F is of the steps before this
    one, each
    weighted `decay` times the next, and corrected for its start at 0 as Adam's is.

    Attributes:
      strength: of the pull.
      decay: of F.
    """

    strength: float = 1.0
    decay: float = 0.99

    def check(self):
        if self.strength < 0:
            raise UserError(
                Setting("Homeostasis", "strength", self.strength), remedy="give 0 or more"
            )
        if not 0 <= self.decay < 1:
            raise UserError(
                Setting("Homeostasis", "decay", self.decay), remedy="give 0 <= value < 1"
            )

    def build(self) -> optax.GradientTransformationExtraArgs:
        def init(params: Any) -> Sensitivity:
            return Sensitivity(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.copy, params))

        def update(updates, state: Any, params=None, **extra: Any):
            known = 1 - self.decay ** jnp.asarray(extra["step"], jnp.float32)
            scale = self.strength / jnp.maximum(known, 1 - self.decay)
            pulled = jax.tree.map(
                lambda g, f, p, p_0: g + scale * f * (p - p_0),
                updates,
                state.mean_square,
                params,
                state.start,
            )
            mean = jax.tree.map(
                lambda f, g: self.decay * f + (1 - self.decay) * g * g, state.mean_square, updates
            )
            return pulled, Sensitivity(mean, state.start)

        return optax.GradientTransformationExtraArgs(init, update)
