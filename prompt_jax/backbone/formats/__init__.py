"""Reading backbones: one module per format, and the key tables that they share."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

Box = tuple[slice, ...]  # one slice per axis, without steps


@dataclass(frozen=True)
class Stored:
    """One array in a file: its shape and dtype now, its values, or a box of them, when asked for.

    `read` takes a Box and returns the values in it, of the same number of axes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Box], np.ndarray]

    def whole(self) -> np.ndarray:
        return self.read(tuple(slice(0, size) for size in self.shape))

    def transposed(self) -> "Stored":
        return Stored(self.shape[::-1], self.dtype, lambda box: self.read(box[::-1]).T)

    def merged(self, axis: int) -> "Stored":
        """The same values with `axis` and the one after it as one axis."""
        inner = self.shape[axis + 1]
        shape = (*self.shape[:axis], self.shape[axis] * inner, *self.shape[axis + 2 :])

        def read(box: Box) -> np.ndarray:
            first, last = box[axis].start // inner, -(-box[axis].stop // inner)
            apart = (*box[:axis], slice(first, last), slice(0, inner), *box[axis + 1 :])
            values = self.read(apart)
            joined = values.reshape(*values.shape[:axis], -1, *values.shape[axis + 2 :])
            start = box[axis].start - first * inner
            wanted = slice(start, start + box[axis].stop - box[axis].start)
            return joined[(slice(None),) * axis + (wanted,)]

        return Stored(shape, self.dtype, read)

    @staticmethod
    def of(array: np.ndarray) -> "Stored":
        """An array in memory."""
        return Stored(array.shape, array.dtype, lambda box: array[box])


class LazyArrays(Mapping[str, np.ndarray]):
    """T5X's per-layer names -> arrays, each read when it is asked for and not kept.

    `stored` gives what is known of each without reading it, and reads parts. Names come in the
    order in which reading is quickest: all layers of one kind of array after each other.
    """

    def __init__(self, stored: Mapping[str, Stored]):
        self.stored = {name: stored[name] for name in sorted(stored, key=_by_kind)}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> "LazyArrays":
        if isinstance(arrays, LazyArrays):
            return arrays
        return LazyArrays({name: Stored.of(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        return self.stored[name].whole()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def _by_kind(name: str) -> tuple[str, int]:
    """`encoder/layers_12/mlp/wo/kernel` -> (`encoder/layers_/mlp/wo/kernel`, 12)"""
    layer = re.search(r"(?<=/layers_)\d+", name)
    if layer is None:
        return name, 0
    return name[: layer.start()] + name[layer.end() :], int(layer[0])


@dataclass(frozen=True)
class Quantised:
    """What a quantised copy says of itself.

    `weights_dtype` is that of its kernels, `source` the digest of the model that they were made of,
    `contents` the digest of what is stored.
    """

    weights_dtype: str
    source: str
    contents: str


@dataclass(frozen=True)
class Checkpoint:
    """What a reader returns once names and shapes are checked, before any weight is read.

    `arrays` are float32, bfloat16 or float16, as stored; `vocabulary` is a SentencePiece path,
    "bytes", or None where the checkpoint brings no tokenizer; `folder` is the local folder whose
    files the arrays come from, None where there is none. With `quantised`, every kernel is two
    arrays, `.../kernel/qvalue` and `.../kernel/scale` (`weights.quantised_shapes`).
    """

    config: T5Config
    arrays: LazyArrays
    vocabulary: str | None
    folder: str | None = None
    quantised: Quantised | None = None

    def refuse_quantised(self, what: str) -> None:
        """UserError where `what` wants the weights themselves and this is a quantised copy."""
        if self.quantised is not None:
            raise UserError(
                self.folder,
                (
                    f"a quantised copy, in {self.quantised.weights_dtype}, and {what} wants "
                    "the weights themselves"
                ),
                "give the backbone that it was made of",
            )
