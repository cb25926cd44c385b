"""Several prompts as one bundle, whatever their kinds: a prefix beside a LoRA beside plain rows.

What one prompt has and another lacks is filled in so that it changes nothing there: products of low
rank with zeros, scales with ones; keys, decoder rows and rows that enter layers are marked absent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.model.bundle import (
    ALL_AXES,
    ARRAYS,
    AXES,
    NOWHERE,
    PromptBundle,
    arrays_by_name,
    per_column,
    put,
)
from prompt_jax.prompt.artefact import Prompt


@dataclass(frozen=True)
class PromptStack:
    """Saved prompts of one visibility as one bundle; prompt n is that of id n.

    `bundle_of`: what is made of each before they are stacked (`computed.bundle`).
    """

    prompts: Sequence[Prompt]
    bundle_of: Callable[[Prompt], PromptBundle] = Prompt.bundle

    def bundle(self) -> PromptBundle:
        return stacked([self.bundle_of(prompt) for prompt in self.prompts])


def stacked(bundles: Sequence[PromptBundle]) -> PromptBundle:
    """Bundles of one prompt each and of one visibility as one bundle, one after the other along X.

    Raises:
      ValueError: their visibilities differ, or rows that are computed once differ in number.
    """
    if len({bundle.visibility for bundle in bundles}) > 1:
        raise ValueError("prompts of one batch share one visibility")
    if len(bundles) == 1:
        return bundles[0]
    each = [_marked(arrays_by_name(bundle)) for bundle in bundles]
    kinds = [set(arrays) for arrays in each]
    if all(kind == kinds[0] for kind in kinds) and _alike(each):
        each = [arrays_by_name(bundle) for bundle in bundles]  # nothing has to be marked
    longest = {side: _longest(side, each) for side in ("encoder", "decoder")}
    if bundles[0].visibility.computed_once and not _alike(each):
        raise ValueError("rows of several numbers, to be computed once: give T5.computed_once each")
    whole = PromptBundle(visibility=bundles[0].visibility)
    for name in dict.fromkeys(name for arrays in each for name in arrays):
        axes = ALL_AXES[name]
        given = [arrays[name] for arrays in each if name in arrays]
        shape = [max(x.shape[n] for x in given) for n in range(len(axes))]
        if name in AXES and per_column(name):  # a slot is the same row in each of these
            shape[axes.index("P")] = longest[name[: len("encoder")]]
        parts = [_filled(name, shape, arrays.get(name)) for arrays in each]
        whole = put(whole, name, jnp.concatenate(parts, axes.index("X")))
    return whole


def marked_arrays(bundle: PromptBundle) -> dict[str, np.ndarray]:
    """The arrays of a bundle with one prompt, and what marks them as present: what `stacked` puts
    together, but numpy."""
    return {name: np.asarray(x) for name, x in _marked(arrays_by_name(bundle)).items()}


def host_arrays(prompt: Prompt) -> dict[str, np.ndarray]:
    """Those of a saved prompt that takes columns of its own; nothing is put on a device."""
    arrays = {n: np.expand_dims(x, AXES[n].index("X")) for n, x in prompt.arrays.items()}
    marked = _marked(arrays)
    if prompt.prefix_positions == "before":
        for name in ("encoder_positions", "decoder_positions"):
            if name in marked:
                P = marked[name].shape[1]
                marked[name] = np.arange(-P, 0, dtype=np.int32)[None]
    return {name: np.asarray(x) for name, x in marked.items()}


def neutral_of(name: str) -> Any:
    """The value of an array's entries that changes nothing."""
    return ARRAYS[name].neutral


def ends_at_text(name: str) -> bool:
    """Whether a shorter prompt's part of an array stands at the end of the axis P."""
    return ARRAYS[name].at_end


def _longest(side: str, each: Sequence[dict[str, jax.Array]]) -> int:
    """Rows of the longest prompt of a side."""
    sizes = [
        x.shape[AXES[name].index("P")]
        for arrays in each
        for name, x in arrays.items()
        if name.startswith(side) and name in AXES and per_column(name)
    ]
    return max(sizes, default=0)


def _alike(each: Sequence[dict[str, jax.Array]]) -> bool:
    return all(x.shape == each[0][name].shape for arrays in each for name, x in arrays.items())


def _marked(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays, with a mark beside each that other prompts may lack."""
    marks: dict[str, Any] = {}
    for stack in ("encoder", "decoder"):
        for attention in ("attention", "cross"):
            if (keys := f"{stack}_layers/{attention}/keys") in arrays:
                present = np.ones(arrays[keys].shape[:3], bool)
                marks[f"{stack}_layers/{attention}/present"] = present
        if (keys := f"{stack}_layers/attention/keys") in arrays:
            nowhere = np.full(arrays[keys].shape[1:3], NOWHERE, np.int32)
            marks[f"{stack}_positions"] = nowhere
        if (rows := f"{stack}_layers/rows") in arrays:
            marks[f"{stack}_layers/replaces"] = np.ones(arrays[rows].shape[:2], bool)
    if "decoder" in arrays:
        marks["decoder_present"] = np.ones(arrays["decoder"].shape[:2], bool)
    return marks | arrays


def _filled(name: str, shape: Sequence[int], x: jax.Array | None) -> jax.Array:
    """One prompt's array, or what stands for none, in `shape` but for X."""
    axes = ALL_AXES[name]
    neutral = neutral_of(name)
    sizes = [1 if axis == "X" else size for axis, size in zip(axes, shape, strict=True)]
    if x is None:
        return jnp.full(sizes, neutral)
    at_end = ends_at_text(name)
    pads = []
    for axis, wanted, size in zip(axes, sizes, x.shape, strict=True):
        room = wanted - size
        pads.append((room, 0) if axis == "P" and at_end else (0, room))
    return jnp.pad(x, pads, constant_values=neutral)
