"""Rows projected into a ball."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.objective.rules import PostUpdate
from prompt_jax.settings import above, settings

WIDTH = 2048  # the width that the paper's radii are for
SMALLEST = 1e-30  # a norm that is divided by, where there is no room


@settings
class NormBall(PostUpdate):
    """Scales every row (the last axis) of what trains down to a norm.

    Attributes:
      radius: the largest norm of a row; of a parameter whose metadata say the `rooms` of its rows,
        a number for each, times these.
      per_width: the radius is for rows of 2,048 numbers; for D it is radius * sqrt(D / 2048).

    Source: the projection of Blau et al. 2024 (https://arxiv.org/abs/2410.17222), for what is
    added to the embeddings of a context (`ContextPrompt`, `CPT`).
    """

    radius: float
    per_width: bool = False

    def check(self):
        above("NormBall", 0, {"radius": self.radius})

    def __call__(self, params: Any) -> Any:
        def project(rows: jax.Array) -> jax.Array:
            norm, radius = jnp.linalg.norm(rows, axis=-1, keepdims=True), self.radius_of(rows)
            return rows * (radius / jnp.maximum(norm, radius))

        def within_rooms(rows: jax.Array, rooms: tuple[float, ...]) -> jax.Array:
            norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
            radius = self.radius_of(rows) * jnp.asarray(rooms, jnp.float32)[:, None]
            return rows * (radius / jnp.maximum(jnp.maximum(norm, radius), SMALLEST))

        def each(param: Any) -> Any:
            rooms = param.get_metadata().get("rooms") if isinstance(param, nnx.Variable) else None
            if rooms is None:
                return jax.tree.map(project, param)
            return jax.tree.map(lambda rows: within_rooms(rows, rooms), param)

        return jax.tree.map(each, params, is_leaf=lambda x: isinstance(x, nnx.Variable))

    def radius_of(self, rows: jax.Array) -> float:
        """The largest norm of a row of this width."""
        return self.radius * math.sqrt(rows.shape[-1] / WIDTH) if self.per_width else self.radius
