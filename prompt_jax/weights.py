"""A T5's parameters by T5X's names: shapes, building from arrays, and back to arrays.

T5X keeps layers apart (`encoder/layers_0/...`); our model stacks them in one array [L, ...].
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.t5 import T5, T5Config


def unstacked_names(path: tuple, value, config: T5Config) -> list[tuple[str, int | None]]:
    """T5X's per-layer names of one of our arrays, with their index along L (None: not stacked)."""
    parts = [str(part) for part in path]
    if value.get_metadata().get("axes", ())[:1] != ("layers",):
        return [("/".join(parts), None)]
    side = config.num_encoder_layers if parts[0] == "encoder" else config.num_decoder_layers
    at = parts.index("layers")
    return [("/".join([*parts[:at], f"layers_{i}", *parts[at + 1 :]]), i) for i in range(side)]


def abstract(config: T5Config) -> tuple[Any, nnx.State]:
    """Graph definition and state of shapes, with nothing allocated."""
    return nnx.split(nnx.eval_shape(lambda: T5(config, nnx.Rngs(0))))


@functools.cache
def t5x_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a T5X checkpoint with layers kept apart, by its name there."""
    shapes = {}
    for path, variable in nnx.to_flat_state(abstract(config)[1]):
        shape = tuple(variable.get_value().shape)
        for name, index in unstacked_names(path, variable, config):
            shapes[name] = shape if index is None else shape[1:]
    return shapes


def build(config: T5Config, arrays, param_dtype: str = "float32") -> T5:
    """A T5 holding `arrays` (T5X's per-layer names -> numpy), all of them, in `param_dtype`."""
    graphdef, state = abstract(config)
    flat = nnx.to_flat_state(state)
    leaves = []
    for path, variable in flat:
        parts = [np.asarray(arrays[name]) for name, _ in unstacked_names(path, variable, config)]
        stacked = variable.get_metadata()["axes"][0] == "layers"
        value = np.stack(parts) if stacked else parts[0]
        leaves.append((path, variable.replace(jnp.asarray(value, dtype=param_dtype))))
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def arrays_of(model: T5) -> dict[str, np.ndarray]:
    """The inverse of `build`: T5X's per-layer names -> numpy arrays in the dtype held."""
    arrays = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = np.asarray(variable.get_value())
        for name, index in unstacked_names(path, variable, model.config):
            arrays[name] = value if index is None else value[index]
    return arrays


def init(config: T5Config, seed: int, param_dtype: str = "float32") -> T5:
    """A T5 with random weights (T5X's initialisers): for pretraining and for controls."""
    model = T5(config, nnx.Rngs(seed))
    cast = jax.tree.map(lambda x: x.astype(param_dtype), nnx.state(model))
    nnx.update(model, cast)
    return model


def reconfigured(model: T5, config: T5Config) -> T5:
    """The same arrays under another config (dropout, dtype of activations, remat)."""
    return nnx.merge(abstract(config)[0], nnx.state(model))
