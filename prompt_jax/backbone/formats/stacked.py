"""T5X's scanned layout: all layers of a stack in one array, as `t5x.examples.scalable_t5` saves it.

There `target.encoder.encoder.attention.query.kernel` [D, L, H*K] stands for the L arrays
`target.encoder.layers_0.attention.query.kernel` [D, H*K] and so on; the decoder's are in
`target.decoder.decoder`. The axis of layers is `param_scan_axis`: 1 by default, for norms [D, L]
and biases [H, L, buckets] too.
"""

import re
from collections.abc import Mapping

import numpy as np

from prompt_jax.backbone.formats import Box, Stored
from prompt_jax.errors import UserError

_STACKED = re.compile(r"target\.(?:encoder\.encoder|decoder\.decoder)\.(.+)")
_NORM, _EMBEDDING = "pre_mlp_layer_norm.scale", "target.token_embedder.embedding"


def unstack(arrays: Mapping[str, Stored], where: str) -> dict[str, Stored]:
    """`arrays` by T5X's dotted names, those of scanned layers replaced by one per layer."""
    axes = {stack: _axis(arrays, stack, where) for stack in ("encoder", "decoder")}
    apart: dict[str, Stored] = {}
    for name, one in arrays.items():
        hit = _STACKED.fullmatch(name)
        if hit is None:
            apart[name] = one
            continue
        stack = name.split(".")[1]
        axis, layers = axes[stack]
        if len(one.shape) <= axis or one.shape[axis] != layers:
            raise UserError(
                where,
                (
                    f"'{name}' has shape {list(one.shape)}, axis {axis} should be the "
                    f"{layers} layers"
                ),
                "copy the checkpoint again",
            )
        read = _Latest(one)
        for layer in range(layers):
            split = f"target.{stack}.layers_{layer}.{hit[1]}"
            if split in arrays:
                raise UserError(where, f"'{name}' and '{split}' are there twice", "remove one")
            apart[split] = read.layer(layer, axis)
    return apart


def _axis(arrays: Mapping[str, Stored], stack: str, where: str) -> tuple[int, int]:
    """The axis of layers and their number, read off a norm's shape; (1, 0) without a stack."""
    start = f"target.{stack}.{stack}."
    stacked = [name for name in arrays if name.startswith(start)]
    if not stacked:
        return 1, 0
    norm = f"{start}{_NORM}"
    for name in (norm, _EMBEDDING):
        if name not in arrays:
            raise UserError(where, f"'{name}' is missing", "copy the checkpoint again")
    shape, width = arrays[norm].shape, arrays[_EMBEDDING].shape[-1]
    if len(shape) != 2 or width not in shape:
        raise UserError(
            where, f"'{norm}' has shape {list(shape)}", f"it should be [{width}, layers]"
        )
    axis = 1 if shape[0] == width else 0
    return axis, shape[axis]


class _Latest:
    """The last box read of a stacked array, all its layers together.

    Its chunks hold many layers each, and layers are asked for in turn: reading them one by one
    would decode every chunk once per layer.
    """

    boxes: tuple["_Latest", Box, np.ndarray] | None = None  # of whichever array was read last

    def __init__(self, source: Stored):
        self.source = source

    def layer(self, number: int, axis: int) -> Stored:
        layers = self.source.shape[axis]

        def read(box: Box) -> np.ndarray:
            whole = (*box[:axis], slice(0, layers), *box[axis:])
            cached = _Latest.boxes
            if cached is None or cached[0] is not self or cached[1] != whole:
                _Latest.boxes = None  # before the next is read: never two at once
                cached = (self, whole, self.source.read(whole))
                if number < layers - 1:
                    _Latest.boxes = cached
            elif number == layers - 1:
                _Latest.boxes = None
            return cached[2].take(number, axis)

        shape = (*self.source.shape[:axis], *self.source.shape[axis + 1 :])
        return Stored(shape, self.source.dtype, read)
