"""Heads that answer in the decoder's place: modules of terms (`LossTerm.create`)."""

from collections.abc import Mapping

import jax
from flax import nnx

from prompt_jax.errors import UserError


class AnsweringHead(nnx.Module):
    """Makes logits of labels of the decoder's first state.

    Attributes:
      labels: their texts.
      separator: between the labels of an answer that has several.
    """

    labels: tuple[str, ...]
    separator: str

    def __call__(self, state_BD: jax.Array) -> jax.Array:
        """float32 [B, K] of states [B, D]."""
        raise NotImplementedError


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
