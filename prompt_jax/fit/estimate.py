"""Memory of a training step per device, from shapes alone: nothing is allocated or compiled.

Weights, trainables and optimizer are exact. Activations are an estimate. It is, of what XLA
allocates for the real step on a CPU (`benchmarks/memory_estimate.py`: nano, T5 small and base, 1.0
and 1.1, float32 and bfloat16), 0.93 to 1.20 with remat `dots`, 0.78 to 1.17 with `full` and
0.89 to 1.21 with `none`. What TPUs and GPUs allocate was not compared: there bfloat16
counts two bytes, and where a kernel attends (`Backbone.attention`) nothing is saved of weights.

Shapes: B rows on a device, T encoder columns, S decoder columns, D emb_dim, H heads, K head_dim, F
mlp_dim, V vocab_size.
"""

import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from prompt_jax.backbone import weights
from prompt_jax.model import attend, quantised, sharding
from prompt_jax.model.t5 import T5Config
from prompt_jax.run.settings import Train


def weight_bytes(
    config: T5Config, mesh: Mesh | AbstractMesh, dtype: str, weights_dtype: str | None = None
) -> int:
    """Bytes of the model's arrays on one device; an int4 counts as one byte."""
    state = quantised.shapes(weights.abstract(config)[1], weights_dtype)
    places = dict(nnx.to_flat_state(sharding.params(mesh, state)))
    total = 0
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value()
        large = isinstance(value, quantised.QArray)
        for x, place in zip(
            jax.tree.leaves(value), jax.tree.leaves(places[path].get_value()), strict=True
        ):
            item = jnp.dtype(x.dtype if large else dtype).itemsize
            total += math.prod(place.shard_shape(x.shape)) * item
    return total


def optimizer_bytes(tx: Any, count: int) -> int:
    """Bytes of an optimizer's state for `count` float32 parameters that are not factored."""
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((count,), jnp.float32))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


class StepBytes(NamedTuple):
    """Bytes on one device while a step runs.

    Attributes:
      weights: the frozen model; 0 where all of it trains.
      trained: what trains, its gradient and the optimizer's state.
      activations: all else, an estimate.
    """

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


def step_bytes(
    run: Train,
    config: T5Config,
    mesh: Mesh | AbstractMesh,
    platform: str,
    weights_dtype: str | None = None,
) -> StepBytes:
    """What a step of a run takes on each device of a mesh; `config` is as the run has it.

    Float32 moments are counted whole, also where they are factored.
    """
    shape, data, layout = mesh.shape, run.data, run.method.layout
    weights = weight_bytes(config, mesh, config.dtype, weights_dtype)
    count = run.method.count(config)
    trained = 2 * 4 * count + optimizer_bytes(run.optimizer.build(), count)
    if run.method.trains_model:  # all weights train, and are shared out as they are
        weights, trained = 0, trained // (shape["fsdp"] * shape["model"])
    rows = data.batch_size // (shape["data"] * shape["fsdp"] * run.accumulate)
    columns = (data.input_length + layout.columns, data.target_length + layout.decoder)
    activations = activation_bytes(config, max(rows, 1), *columns, platform)
    activations //= shape["model"]
    return StepBytes(weights, trained, activations + widened_bytes(weights, config.dtype, platform))


def activation_bytes(config: T5Config, rows: int, T: int, S: int, platform: str) -> int:
    """Bytes beside weights and trainables at the worst moment of one step on a device; an estimate.

    What the backward pass finds saved of all layers, and the larger of two things that are never
    there together: two copies of the logits (float32), or one layer whole.
    """
    item = _item(config, platform)
    encoder = _layer(config, T, [T], item)
    decoder = _layer(config, S, [S, T], item) + _cross(config, T, item)
    saved = [_saved(config, T, 1, item, encoder), _saved(config, S, 2, item, decoder)]
    if config.remat == "dots":
        saved[1] += _cross(config, T, item)
    layers = config.num_encoder_layers * saved[0] + config.num_decoder_layers * saved[1]
    logits = 2 * S * config.vocab_size * 4
    kernel = attend.kernel_for(config.attention, T, T) != "xla"  # which takes one array for all
    added = config.num_heads * T * T * 4 if kernel else 0
    return rows * (layers + max(logits, encoder, decoder) + added)


def widened_bytes(weights: int, dtype: str, platform: str) -> int:
    """Bytes of the float32 copy that XLA for CPUs makes of bfloat16 weights, while a step runs."""
    return 2 * weights if platform == "cpu" and dtype == "bfloat16" else 0


def _item(config: T5Config, platform: str) -> int:
    """Bytes of an activation; XLA for CPUs computes bfloat16 by way of float32."""
    return 4 if platform == "cpu" else jnp.dtype(config.dtype).itemsize


def _cross(c: T5Config, T: int, item: int) -> int:
    """Keys and values of the encoder's output, for one layer and row."""
    return 2 * T * c.num_heads * c.head_dim * item


def _saved(c: T5Config, columns: int, attentions: int, item: int, whole: int) -> int:
    """Bytes that one layer saves for one row, by `remat`; `whole`: everything."""
    if c.remat == "none":
        return whole
    if c.remat == "full":
        return columns * c.emb_dim * item
    # dots: the layer's input, the sum after each attention, and q, (k, v,) wi
    heads = (2 + attentions) * c.num_heads * c.head_dim
    width = (1 + attentions) * c.emb_dim + len(c.mlp_activations) * c.mlp_dim
    return columns * (heads + width) * item


def _layer(c: T5Config, columns: int, attended: list[int], item: int) -> int:
    """Bytes of one layer for one row: residuals, heads, softmax (float32), the MLP."""
    HK = c.num_heads * c.head_dim
    arrays = (
        5 if len(c.mlp_activations) == 2 else 1
    )  # gated: both factors, their product, GELU's own
    mlp = columns * c.mlp_dim * arrays * item
    total = mlp + 2 * columns * c.emb_dim * item
    for keys in attended:
        heads = columns * (2 * c.emb_dim + 4 * HK) * item
        kernel = attend.kernel_for(c.attention, columns, keys)
        total += heads + (c.num_heads * columns * keys * (4 + item) if kernel == "xla" else 0)
    return total


def device_bytes(device: Any) -> int:
    """What a device holds; for a CPU the host's memory, shared among its virtual devices."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return host // len(jax.local_devices())
