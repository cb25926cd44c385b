"""What is zero stays zero."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_jax.objective.rules import GradRule
from prompt_jax.settings import settings


@settings
class KeepZeros(GradRule):
    """Takes the gradient of every entry that is exactly 0, so that pruned pieces stay pruned.

    XPrompt's masks (Ma et al. 2022, https://arxiv.org/abs/2210.04457, section 3.2) as a rule: an
    optimizer of this package moves no entry whose gradients have all been 0, and decay leaves 0.
    """

    def build(self) -> optax.GradientTransformationExtraArgs:
        def update(grads: Any, params: Any) -> Any:
            return jax.tree.map(lambda g, p: jnp.where(p == 0, 0.0, g), grads, params)

        return optax.with_extra_args_support(optax.stateless(update))
