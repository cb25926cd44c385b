"""Frozen matrices in int8, int4 or float8, one float32 scale per output channel, by qwix.

https://github.com/google/qwix. Its provider rewrites the calls of a model whose layers lie apart;
ours are stacked and scanned. So arrays are quantised by `qwix.quantize` when they are loaded and
multiplied by `qwix.dot_general`. Quantised are the kernels of attention, MLP and `logits_dense`;
embeddings, position biases and norms stay.

A quantised kernel is a `qwix.QArray`, in the `nnx.Param` that the plain one would be in: `qvalue`
[L, D, F] in the small dtype and `scale` float32 [L, 1, F] (without L for `logits_dense`).

Shapes: R rows, L layers, D inputs and F outputs of a kernel.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from qwix import QArray, dot_general, quantize

from prompt_jax.errors import UserError

DTYPES = ("int8", "int4", "float8_e4m3fn")
PLAIN = "none"  # not quantised, said aloud


def check(weights_dtype: str | None) -> None:
    """UserError unless weights can be held in it; None: as they are stored."""
    if weights_dtype not in (None, PLAIN, *DTYPES):
        raise UserError(
            f"weights_dtype '{weights_dtype}'",
            "unknown",
            f"the known ones are {', '.join(DTYPES)}, {PLAIN}, and None: as stored",
        )


def held_in(wanted: str | None, stored: str | None, name: str) -> str | None:
    """What the kernels of the backbone `name` will be held in; None: not quantised.

    `wanted` as in `check`, `stored` as the checkpoint has them. UserError where they are quantised
    there and something else is wanted: what was rounded away does not come back.
    """
    if stored is None:
        return None if wanted == PLAIN else wanted
    if wanted not in (None, stored):
        raise UserError(
            name,
            (f"a quantised copy, in {stored}, and cannot be held in weights_dtype {wanted!r}"),
            "bind None, or give the backbone that it was made of",
        )
    return stored


def refuse_training(weights_dtype: str | None, method: str) -> None:
    """UserError for a method that trains the weights themselves, where they are quantised."""
    if weights_dtype not in (None, PLAIN):
        raise UserError(
            f"weights_dtype {weights_dtype!r}",
            f"{method} trains the weights themselves",
            (f"bind Backbone.weights_dtype = '{PLAIN}' and a backbone that is not quantised"),
        )


def is_large(path: Sequence[Any]) -> bool:
    """Whether the array at a path of the model is quantised."""
    return path[-1] == "kernel"


@functools.partial(jax.jit, static_argnums=1)
def quantise(kernel: jax.Array, weights_dtype: str) -> QArray:
    """[..., D, F] rounded to the nearest values; the largest of each output channel fits."""
    channels = [axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2]
    return quantize(kernel, jnp.dtype(weights_dtype), channelwise_axes=channels)


def stack(layers: Sequence[QArray], places: QArray) -> QArray:
    """L kernels as one; `places`: the shardings of its `qvalue` and `scale`."""
    return jax.jit(_stack, out_shardings=places)(*layers)


def _stack(*layers: QArray) -> QArray:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *layers)


def shapes(state: nnx.State, weights_dtype: str | None) -> nnx.State:
    """A state of shapes (`weights.abstract`), as it is once its kernels are quantised."""
    if weights_dtype is None:
        return state
    flat = []
    for path, variable in nnx.to_flat_state(state):
        if is_large(path):
            kernel = variable.get_value()
            variable = variable.replace(
                jax.eval_shape(lambda x: quantise(x, weights_dtype), kernel)
            )
        flat.append((path, variable))
    return nnx.from_flat_state(flat)


def matmul(x: jax.Array, kernel_DF, dtype=None) -> jax.Array:
    """x [..., D] @ kernel, plain or quantised, in `dtype` (None: that of x).

    It is one product of two matrices: on CPUs the gradient of a batched one is four times slower.
    The backward pass finds a quantised kernel saved as it is held, and dequantises it anew: saved
    dequantised, the kernels of all layers would be a second copy of the model, and a larger one.
    """
    x_RD = x.reshape(-1, x.shape[-1])
    if isinstance(kernel_DF, jax.Array | np.ndarray):
        y_RF = jnp.matmul(x_RD, kernel_DF, preferred_element_type=dtype)
    else:  # within a scan nothing merges the two passes: no barrier is needed
        dot = jax.checkpoint(_dot, prevent_cse=False, static_argnums=2)
        y_RF = dot(x_RD, kernel_DF, dtype)
    return y_RF.reshape(*x.shape[:-1], kernel_DF.shape[1])


def _dot(x_RD: jax.Array, kernel_DF: QArray, dtype) -> jax.Array:
    # Else XLA for TPUs lays whole stacks of queries, keys and values out anew: 3.4 GiB of XXL.
    qvalue = with_layout_constraint(kernel_DF.qvalue, Layout(major_to_minor=(0, 1)))
    kernel_DF = dataclasses.replace(kernel_DF, qvalue=qvalue)
    contracted = (((1,), (0,)), ((), ()))
    return dot_general(x_RD, kernel_DF, contracted, preferred_element_type=dtype)
