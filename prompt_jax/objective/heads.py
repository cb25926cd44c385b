"""Heads that answer in the decoder's place: modules of terms (`LossTerm.create`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import UserError
from prompt_jax.methods.base import TermParam


class AnsweringHead(nnx.Module):
    """Logits of labels of the decoder's first state: W h + b, 0 at first.

    Attributes:
      labels: their texts.
      separator: between the labels of an answer that has several.
    """

    def __init__(self, width: int, labels: tuple[str, ...], separator: str):
        self.labels, self.separator = labels, separator
        self.kernel = TermParam(jnp.zeros((width, len(labels)), jnp.float32))
        self.bias = TermParam(jnp.zeros((len(labels),), jnp.float32))

    def __call__(self, state_BD: jax.Array) -> jax.Array:
        """float32 [B, K] of states [B, D]."""
        return state_BD.astype(jnp.float32) @ self.kernel[...] + self.bias[...][None]


def head_of(modules: Mapping[str, nnx.Module]) -> AnsweringHead:
    """The one head among the modules of a run's terms; UserError where there is none."""
    for module in modules.values():
        if isinstance(module, AnsweringHead):
            return module
    raise UserError(
        "the mode 'head'",
        "answers by the head of a term, and there is none",
        "add @PTEC() to Train.terms, or take the mode 'generate'",
    )
