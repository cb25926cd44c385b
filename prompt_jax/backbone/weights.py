"""A T5's parameters by T5X's names: shapes, building from arrays, and back to arrays.

T5X keeps layers apart (`encoder/layers_0/...`); our model stacks them in one array [L, ...].
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from prompt_jax.backbone.formats import Box, LazyArrays, Stored
from prompt_jax.errors import UserError
from prompt_jax.model import quantised
from prompt_jax.model.sharding import unsplit
from prompt_jax.model.t5 import T5, T5Config
from prompt_jax.progress import Counter


def unstacked_names(path: tuple, value, config: T5Config) -> list[tuple[str, int | None]]:
    """T5X's per-layer names of one of our arrays, with their index along L (None: not stacked)."""
    parts = [str(part) for part in path]
    if value.get_metadata().get("axes", ())[:1] != ("layers",):
        return [("/".join(parts), None)]
    side = config.num_encoder_layers if parts[0] == "encoder" else config.num_decoder_layers
    at = parts.index("layers")
    return [("/".join([*parts[:at], f"layers_{i}", *parts[at + 1 :]]), i) for i in range(side)]


@functools.cache
def abstract(config: T5Config) -> tuple[Any, nnx.State]:
    """Graph definition and state of shapes, with nothing allocated; not to be changed."""
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


def quantised_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """`t5x_shapes` of a quantised copy: [D, F] is `/qvalue` [D, F] and `/scale` [1, F]."""
    shapes = {}
    for name, shape in t5x_shapes(config).items():
        if quantised.is_large(name.split("/")):
            shapes |= {f"{name}/qvalue": shape, f"{name}/scale": (1, shape[-1])}
        else:
            shapes[name] = shape
    return shapes


def build(
    config: T5Config,
    arrays,
    param_dtype: str = "float32",
    shardings=None,
    weights_dtype: str | None = None,
) -> T5:
    """A T5 holding `arrays` (T5X's per-layer names -> numpy), all of them, in `param_dtype`.

    `arrays` are read one by one where they are lazy (`checkpoint.LazyArrays`). `shardings`, a state
    of shardings (`sharding.params`), places them: a process then reads only the parts that its
    devices hold. On the host there is never more than one of our arrays beside the model. With
    `weights_dtype` (`quantised.DTYPES`) kernels are quantised, layer by layer, as they are read;
    where `arrays` hold them quantised (`quantised_shapes`), they are taken as they are.
    """
    graphdef, state = abstract(config)
    stored, dtype = LazyArrays.of(arrays).stored, jnp.dtype(param_dtype)
    places = {} if shardings is None else dict(nnx.to_flat_state(shardings))
    here = jnp.zeros(()).sharding  # the default device
    leaves, flat = [], nnx.to_flat_state(state)
    counter = Counter("reading weights", len(flat), "arrays")
    for path, variable in flat:
        place = places[path].get_value() if places else here
        names = unstacked_names(path, variable, config)
        shape = tuple(variable.get_value().shape)
        if weights_dtype is None or not quantised.is_large(path):
            value = _read(_parts(stored, names), place, shape, dtype)
        elif f"{names[0][0]}/qvalue" in stored:
            value = _read_as_stored(stored, names, place, shape, weights_dtype)
        else:
            value = _read_quantised(_parts(stored, names), place, shape, weights_dtype)
        leaves.append((path, variable.replace(value)))
        counter.add()
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def _parts(stored, names, end: str = "") -> list[tuple[Stored, int | None]]:
    return [(stored[f"{name}{end}"], layer) for name, layer in names]


def _read(parts: list[tuple[Stored, int | None]], place, shape, dtype) -> jax.Array:
    return jax.make_array_from_callback(shape, place, reader(parts, place, shape, dtype))


def _read_quantised(parts, place, shape: tuple[int, ...], weights_dtype: str):
    """A kernel of which one layer at a time is there in float32."""
    dtype, alone = jnp.dtype(jnp.float32), parts[0][1] is None
    inner = place if alone else _of_layer(place)
    side = shape if alone else shape[1:]
    layers = [
        quantised.quantise(_read([(one, None)], inner, side, dtype), weights_dtype)
        for one, _ in parts
    ]
    scale = (*shape[:-2], 1, shape[-1])
    places = dataclasses.replace(layers[0], qvalue=place, scale=unsplit(place, scale))
    return jax.device_put(layers[0], places) if alone else quantised.stack(layers, places)


def _read_as_stored(stored, names, place, shape: tuple[int, ...], weights_dtype: str):
    """A kernel that is quantised in the file: its values and its scales, each read as it is."""
    dtype, side = jnp.dtype(weights_dtype), (*shape[:-2], 1, shape[-1])
    values = _read(_parts(stored, names, "/qvalue"), place, shape, dtype)
    scales = _parts(stored, names, "/scale")
    scale = _read(scales, unsplit(place, side), side, jnp.dtype(jnp.float32))
    return quantised.QArray(values, scale, qtype=dtype)


def _of_layer(place):
    """The place of one layer of an array that is stacked."""
    if isinstance(place, NamedSharding):
        return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))
    return place


def reader(parts: list[tuple[Stored, int | None]], place, shape: tuple[int, ...], dtype):
    """A function from a box of one of our arrays to its values.

    At the first call all boxes that `place` has on this process's devices are filled, so that each
    file is read once: the least box around them, layer by layer.
    """
    boxes = {
        _bounds(index, shape) for index in place.addressable_devices_indices_map(shape).values()
    }
    sides = list(zip(*boxes, strict=True))
    hull = [(min(a for a, _ in side), max(b for _, b in side)) for side in sides]

    @functools.cache
    def filled() -> dict[tuple, np.ndarray]:
        outs = {box: _aligned([b - a for a, b in box], dtype) for box in boxes}
        for one, layer in parts:
            _fill(outs, one, layer, hull if layer is None else hull[1:])
        return outs

    return lambda index: filled()[_bounds(index, shape)]


def _bounds(index: Box, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _fill(outs: dict[tuple, np.ndarray], one: Stored, layer: int | None, hull: list) -> None:
    """Reads `hull` of a stored array, and copies into every box what belongs there."""
    wanted = {b: out for b, out in outs.items() if layer is None or b[0][0] <= layer < b[0][1]}
    if not wanted:
        return
    values = one.read(tuple(slice(*side) for side in hull))
    for box, out in wanted.items():
        inner = box if layer is None else box[1:]
        part = tuple(slice(a - h, b - h) for (a, b), (h, _) in zip(inner, hull, strict=True))
        copy_into(out if layer is None else out[layer - box[0][0]], values[part])


def _aligned(shape: list[int], dtype) -> np.ndarray:
    """Memory that JAX's CPU devices take over as it is, without another copy."""
    size, align = math.prod(shape) * dtype.itemsize, 64
    raw = np.empty(size + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size].view(dtype).reshape(shape)


def copy_into(out: np.ndarray, values: np.ndarray, tile: int = 128) -> None:
    """`out[:] = values`; a transposed matrix goes tile by tile, which is several times faster."""
    if out.dtype == values.dtype and out.dtype.itemsize == 2:  # numpy is slow with bfloat16
        out, values = out.view(np.uint16), values.view(np.uint16)
    if values.ndim != 2 or values.strides[0] >= values.strides[1]:
        out[...] = values
        return
    for i in range(0, values.shape[0], tile):
        for j in range(0, values.shape[1], tile):
            out[i : i + tile, j : j + tile] = values[i : i + tile, j : j + tile]


def lazy_arrays(model: T5) -> LazyArrays:
    """T5X's per-layer names -> the arrays of a model, each fetched from the device when read."""
    arrays = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = variable.get_value()
        if isinstance(value, quantised.QArray):
            raise UserError("/".join(map(str, path)), "is quantised", "take weights_dtype None")
        for name, index in unstacked_names(path, variable, model.config):
            shape = value.shape if index is None else value.shape[1:]
            fetch = functools.partial(_fetch, value, index)
            arrays[name] = Stored(tuple(shape), value.dtype, fetch)
    return LazyArrays(arrays)


def _fetch(value: jax.Array, index: int | None, box: Box) -> np.ndarray:
    if all(device.platform == "cpu" for device in value.devices()):
        whole = np.asarray(value)  # of one device, a view
        return whole[box] if index is None else whole[index][box]
    # A copy on the device, since JAX keeps what it has once fetched of an array.
    part = jnp.copy(value) if index is None else _layer(value, index)
    return np.asarray(part)[box]


@jax.jit
def _layer(value: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(value, index, keepdims=False)


def arrays_of(model: T5) -> dict[str, np.ndarray]:
    """The inverse of `build`: T5X's per-layer names -> numpy arrays in the dtype held."""
    return dict(lazy_arrays(model))


def init(config: T5Config, seed: int, param_dtype: str = "float32") -> T5:
    """A T5 with random weights (T5X's initialisers): for pretraining and for controls."""
    model = T5(config, nnx.Rngs(seed))
    cast = jax.tree.map(lambda x: x.astype(param_dtype), nnx.state(model))
    nnx.update(model, cast)
    return model


def reconfigured(model: T5, config: T5Config) -> T5:
    """The same arrays under another config (dropout, dtype of activations, remat)."""
    return nnx.merge(abstract(config)[0], nnx.state(model))
