"""What happens around the optimizer: rules for gradients before it, projections after it."""

import abc
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.settings import settings


class GradRule(abc.ABC):
    """Makes one gradient of those of the parts of an objective; each costs a backward pass.

    Attributes:
      needs: names of the terms that a run must have.
    """

    needs: tuple[str, ...] = ()

    @abc.abstractmethod
    def __call__(self, grads: Mapping[str, Any], trainable: Any) -> Any:
        """The gradient; `grads`: by part, `Loss` and the names of the terms, weighted."""


@settings
class ProGrad(GradRule):
    """Takes out of the loss's gradient what opposes that of the general term.

    g_d the gradient of `Loss`, g_g that of `FrozenKL`; if their cosine is negative,
    g_d - strength (g_d . g_g) g_g / |g_g|^2, else g_d; array by array. Gradients of further terms
    are added. Zhu et al. 2023 (https://arxiv.org/abs/2205.14865).
    """

    needs = ("FrozenKL",)
    strength: float = 1.0

    def __call__(self, grads: Mapping[str, Any], trainable: Any) -> Any:
        kept = jax.tree.map(self._without_conflict, grads["Loss"], grads["FrozenKL"])
        others = [g for name, g in grads.items() if name not in ("Loss", "FrozenKL")]
        return jax.tree.map(lambda *parts: sum(parts), kept, *others)

    def _without_conflict(self, wanted: jax.Array, general: jax.Array) -> jax.Array:
        dot, size = jnp.vdot(wanted, general), jnp.vdot(general, general)
        share = jnp.where(size > 0, jnp.minimum(dot, 0.0) / jnp.maximum(size, 1e-30), 0.0)
        return wanted - self.strength * share * general


class PostUpdate(abc.ABC):
    """Changes what trains after the optimizer did."""

    @abc.abstractmethod
    def __call__(self, trainable: Any) -> Any: ...


@settings
class NormBall(PostUpdate):
    """Scales every row (the last axis) of what trains down to a norm.

    Attributes:
      radius: the largest norm of a row.

    Source: the projection of Blau et al. 2024 (https://arxiv.org/abs/2410.17222), for what is
    added to the embeddings of a context (`ContextPrompt`).
    """

    radius: float

    def check(self):
        if self.radius <= 0:
            raise UserError(f"NormBall.radius = {self.radius}: give more than 0")

    def __call__(self, trainable: Any) -> Any:
        def project(rows: jax.Array) -> jax.Array:
            norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
            return rows * (self.radius / jnp.maximum(norm, self.radius))

        return jax.tree.map(project, trainable)
