"""Heads that answer in the decoder's place: modules of terms (`LossTerm.create`)."""

import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
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

    def arrays(self) -> dict[str, np.ndarray]:
        """What is saved: `kernel`, `bias`, and `labels`, uint8, the bytes of JSON that says both
        attributes."""
        said = json.dumps({"labels": self.labels, "separator": self.separator}).encode()
        return {
            "kernel": np.asarray(self.kernel[...]),
            "bias": np.asarray(self.bias[...]),
            "labels": np.frombuffer(said, np.uint8),
        }


def restored(arrays: Mapping[str, np.ndarray], where: str) -> nnx.Dict:
    """The head among what terms saved beside a prompt, `TERM/array`, as a model has it.

    Raises:
      UserError: there is none, or it is damaged.
    """
    term = next((name.removesuffix("/labels") for name in arrays if name.endswith("/labels")), None)
    if term is None:
        remedy = "take the mode 'generate' or 'rank', or a prompt of PTEC"
        raise UserError(where, "has no head to answer by", remedy)
    try:
        kernel, bias, said = (arrays[f"{term}/{name}"] for name in ("kernel", "bias", "labels"))
        named = json.loads(said.tobytes())
        labels, separator = tuple(map(str, named["labels"])), str(named["separator"])
        width, count = kernel.shape
        if count != len(labels) or bias.shape != (count,):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(where, f"the head of {term} is damaged", "copy it again") from None
    head = AnsweringHead(width, labels, separator)
    head.kernel[...] = jnp.asarray(kernel, jnp.float32)
    head.bias[...] = jnp.asarray(bias, jnp.float32)
    return nnx.Dict({term: head})


def head_of(modules: Mapping[str, nnx.Module]) -> AnsweringHead:
    """The one head among the modules of a run's terms; UserError where there is none."""
    for module in modules.values():
        if isinstance(module, AnsweringHead):
            return module
    raise no_head("the mode 'head'")


def no_head(where: object) -> UserError:
    """What is wrong with a mode that answers by a head where no term has one."""
    remedy = "add @PTEC() to Train.terms, or take the mode 'generate'"
    return UserError(where, "answers by the head of a term, and there is none", remedy)
