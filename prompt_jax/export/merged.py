"""Prompts that a model's own weights can hold: W' = diag(s) (W + A B) diag(t), in float32.

LoRA's products of low rank (Hu et al. 2021, section 4.1) and (IA)3's scales (Liu et al. 2022,
section 3.3) of inputs s and outputs t change matrices alone, so that what is left is a backbone.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from prompt_jax.backbone.formats import Box, Checkpoint, LazyArrays, Stored

if TYPE_CHECKING:
    from prompt_jax.prompt.artefact import Prompt

FIELDS = ("a", "b", "input_scale", "output_scale")
_BLOCKS = {  # place of a bundle's arrays -> block of a T5's layer
    "encoder_layers/attention/": "encoder/layers_{}/attention/",
    "encoder_layers/": "encoder/layers_{}/mlp/",
    "decoder_layers/attention/": "decoder/layers_{}/self_attention/",
    "decoder_layers/cross/": "decoder/layers_{}/encoder_decoder_attention/",
    "decoder_layers/": "decoder/layers_{}/mlp/",
}


def refusal(prompt: "Prompt") -> str | None:
    """What of a prompt no weights can hold, in words."""
    other = [name for name in sorted(prompt.arrays) if not is_matrix(name)]
    if not other:
        return None
    return f"{other[0]} rows" if "/" not in other[0] else f"{other[0]} inside the layers"


def is_matrix(name: str) -> bool:
    """Whether an array of a bundle changes a matrix, and nothing else."""
    return "/" in name and name.rpartition("/")[2] in FIELDS


def merged(source: Checkpoint, arrays: Mapping[str, np.ndarray]) -> Checkpoint:
    """The checkpoint in float32 with those of a prompt's arrays merged that change matrices."""
    source.refuse_quantised("merging a prompt")
    edits: dict[str, dict[str, np.ndarray]] = {}
    for name, value in arrays.items():
        if not is_matrix(name):
            continue
        place, _, field = name.rpartition("/")
        start = max((s for s in _BLOCKS if place.startswith(s)), key=len)
        for layer, part in enumerate(value):
            kernel = f"{_BLOCKS[start].format(layer)}{place.removeprefix(start)}/kernel"
            edits.setdefault(kernel, {})[field] = part
    stored = {
        name: Stored(
            one.shape, np.dtype(np.float32), functools.partial(_read, one, edits.get(name))
        )
        for name, one in source.arrays.stored.items()
    }
    assert not set(edits) - set(stored), set(edits) - set(stored)
    return dataclasses.replace(source, arrays=LazyArrays(stored))


def _read(one: Stored, edit: dict[str, np.ndarray] | None, box: Box) -> np.ndarray:
    if edit is None:
        return one.read(box).astype(np.float32)
    kernel = one.whole().astype(np.float32)
    if "a" in edit:
        kernel = kernel + edit["a"] @ edit["b"]
    kernel = kernel * edit["input_scale"][:, None] if "input_scale" in edit else kernel
    return (kernel * edit["output_scale"] if "output_scale" in edit else kernel)[box]
