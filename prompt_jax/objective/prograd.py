"""ProGrad: no step against general knowledge."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_jax.objective.rules import GradRule
from prompt_jax.settings import at_least, settings


@settings
class ProGrad(GradRule):
    """Takes out of the loss's gradient what opposes that of the general term.

    g_d the gradient of `Loss`, g_g that of `FrozenKL`; if their cosine is negative,
    g_d - strength (g_d . g_g) g_g / |g_g|^2, else g_d; array by array. Gradients of further terms
    are added. Zhu et al. 2023 (https://arxiv.org/abs/2205.14865).
    """

    needs = ("FrozenKL",)
    apart = True
    strength: float = 1.0

    def check(self):
        at_least("ProGrad", 0, {"strength": self.strength})

    def build(self) -> optax.GradientTransformationExtraArgs:
        def update(updates, state, params=None, **extra: Any):
            return self.of(extra["parts"]), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def of(self, grads: Mapping[str, Any]) -> Any:
        """One gradient of those of the parts."""
        without = jax.tree.map(self._without_conflict, grads["Loss"], grads["FrozenKL"])
        others = [g for name, g in grads.items() if name not in ("Loss", "FrozenKL")]
        return jax.tree.map(lambda *parts: sum(parts), without, *others)

    def _without_conflict(self, wanted: jax.Array, general: jax.Array) -> jax.Array:
        dot, size = jnp.vdot(wanted, general), jnp.vdot(general, general)
        share = jnp.where(size > 0, jnp.minimum(dot, 0.0) / jnp.maximum(size, 1e-30), 0.0)
        return wanted - self.strength * share * general
