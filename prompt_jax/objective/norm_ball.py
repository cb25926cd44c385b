"""Rows projected into a ball."""

from typing import Any

import jax
import jax.numpy as jnp

from prompt_jax.errors import Setting, UserError
from prompt_jax.objective.rules import PostUpdate
from prompt_jax.settings import settings


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
            raise UserError(Setting("NormBall", "radius", self.radius), remedy="give more than 0")

    def __call__(self, params: Any) -> Any:
        def project(rows: jax.Array) -> jax.Array:
            norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
            return rows * (self.radius / jnp.maximum(norm, self.radius))

        return jax.tree.map(project, params)
