"""Reading backbones: one module per format, and the key tables that they share."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from prompt_jax.t5 import T5Config


class LazyArrays(Mapping[str, np.ndarray]):
    """T5X's per-layer names -> arrays, each read when it is asked for and not kept."""

    def __init__(self, names: Iterable[str], read: Callable[[str], np.ndarray]):
        self._names = sorted(names)
        self._members = frozenset(self._names)
        self._read = read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._members:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Checkpoint:
    """What a reader returns once names and shapes are checked, before any weight is read.

    `arrays` are float32, bfloat16 or float16, as stored; `vocabulary` is a SentencePiece path,
    "bytes", or None where the checkpoint brings no tokenizer.
    """

    config: T5Config
    arrays: Mapping[str, np.ndarray]
    vocabulary: str | None
