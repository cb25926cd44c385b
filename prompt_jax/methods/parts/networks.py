"""Networks that make a prompt out of trained inputs: MLP and bidirectional LSTM.

They run once per step, are trained with the prompt, and are gone once it is folded. Weights begin
uniform in +-1/sqrt(inputs) (an LSTM's: of its width), as PyTorch's do, which the papers used.

Shapes: P rows, I inputs, O outputs, W width.
"""

import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.methods.base import PromptParam

Activation = Literal["tanh", "relu"]
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def uniform(key: jax.Array, shape: tuple[int, ...], bound: float) -> PromptParam:
    return PromptParam(jax.random.uniform(key, shape, jnp.float32, -bound, bound))


class Linear(nnx.Module):
    """x [P, I] -> [P, O], with a bias."""

    def __init__(self, key: jax.Array, inputs: int, outputs: int):
        keys = jax.random.split(key)
        self.kernel = uniform(keys[0], (inputs, outputs), inputs**-0.5)
        self.bias = uniform(keys[1], (outputs,), inputs**-0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...][None]


class MLP(nnx.Module):
    """x [P, widths[0]] -> [P, widths[-1]], with the activation between two layers."""

    def __init__(self, key: jax.Array, widths: tuple[int, ...], activation: Activation):
        self.activation = activation
        keys = jax.random.split(key, len(widths) - 1)
        sizes = zip(keys, widths[:-1], widths[1:], strict=True)
        self.layer = nnx.List([Linear(*size) for size in sizes])

    def __call__(self, x: jax.Array) -> jax.Array:
        for n, layer in enumerate(self.layer):
            x = layer(x if n == 0 else ACTIVATIONS[self.activation](x))
        return x


class LayerNorm(nnx.Module):
    """x [P, D] to mean 0 and variance 1 of every row, then scaled and shifted (Ba et al. 2016)."""

    def __init__(self, width: int):
        self.scale = PromptParam(jnp.ones((width,), jnp.float32))
        self.bias = PromptParam(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
        return x * self.scale[...][None] + self.bias[...][None]


def mlp_count(widths: tuple[int, ...]) -> int:
    """Sum of I * O + O."""
    return sum(i * o + o for i, o in itertools.pairwise(widths))


class LSTM(nnx.Module):
    """x [P, I] -> [P, W], from the first row to the last (Hochreiter & Schmidhuber 1997)."""

    def __init__(self, key: jax.Array, inputs: int, width: int):
        keys = jax.random.split(key, 3)
        self.of_input = uniform(keys[0], (inputs, 4 * width), width**-0.5)
        self.of_state = uniform(keys[1], (width, 4 * width), width**-0.5)
        self.bias = uniform(keys[2], (4 * width,), width**-0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.of_state[...]

        def advance(carry, row):
            state, cell = carry
            i, f, g, o = jnp.split(row + state @ kernel, 4)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            state = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (state, cell), state

        zeros = jnp.zeros(kernel.shape[0])
        rows = x @ self.of_input[...] + self.bias[...][None]
        return jax.lax.scan(advance, (zeros, zeros), rows)[1]


class BiLSTM(nnx.Module):
    """x [P, I] -> [P, W]: `depth` layers, each half of W forwards and half backwards."""

    def __init__(self, key: jax.Array, inputs: int, width: int, depth: int = 2):
        sizes = [(inputs if n == 0 else width, width // 2) for n in range(depth)]
        keys = jax.random.split(key, (depth, 2))
        self.forward, self.backward = (
            nnx.List([LSTM(keys[n, way], *size) for n, size in enumerate(sizes)]) for way in (0, 1)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for forward, backward in zip(self.forward, self.backward, strict=True):
            x = jnp.concatenate([forward(x), backward(x[::-1])[::-1]], axis=-1)
        return x


def lstm_count(inputs: int, width: int, depth: int = 2) -> int:
    """Sum over layers of 4 W (I + W/2 + 1): two directions of 4 (W/2) columns each."""
    ins = [inputs, *[width] * (depth - 1)]
    return sum(4 * width * (i + width // 2 + 1) for i in ins)
