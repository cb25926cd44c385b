"""Gates of 1 on the rows, keys and pieces of a tuned prompt: how much what each multiplies matters.

The mean over batches of |d loss / d gate|, which is |x . d loss / d x| of what a gate multiplies,
as XPrompt (Ma et al. 2022, https://arxiv.org/abs/2210.04457, section 3.2) and SKIP take it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.model.bundle import AXES, put
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.run.job import Run
from prompt_jax.run.stages import Done

ROWS = "encoder_layers/rows"  # of every layer, in place of those that enter the first
Names = tuple[str, ...]  # of arrays


class Gates:
    """The gates of rows, keys and pieces on a stage's own training data.

    Attributes:
      arrays: of the prompt, as pruned so far, and others that are to have gates.
      layout: of its rows, as pruned so far.
      job: the stage's.
    """

    def __init__(self, done: Done, prompt: Prompt, batches: int):
        self.job, self.run, self.seed = Run(done.run, done.folder), done.run, done.run.seed
        self.text = done.run.data.read()
        self.layout = done.run.method.layout
        self.arrays, self.batches = dict(prompt.arrays), batches
        self._bundle = prompt.bundle()

    def importance(self, shapes: Mapping[Names, tuple[int, ...]]) -> list[np.ndarray]:
        """float32, of each shape: how much what each gate multiplies matters to the stage's loss;
        `gated` multiplies all arrays of the names before a shape by the same gates."""
        if not shapes:
            return []
        graphdef, weights = nnx.split(self.job.backbone.model)
        self.job.data = self.text.open(self.job.backbone.vocabulary, self.layout, self.seed)

        @jax.jit
        def gradient(weights, arrays, batch) -> list[jax.Array]:
            def loss(gates: list[jax.Array]):
                of = {name: own for some, own in zip(shapes, gates, strict=True) for name in some}
                bundle = self._bundle
                for name, array in arrays.items():
                    array = gated(array, of[name]) if name in of else array
                    bundle = put(bundle, name, jnp.expand_dims(array, AXES[name].index("X")))
                return self.run.loss.of(nnx.merge(graphdef, weights)(batch, bundle), batch)[0]

            ones = [jnp.ones(shape) for shape in shapes.values()]
            return jax.tree.map(jnp.abs, jax.grad(loss)(ones))

        steps = [gradient(weights, self.arrays, self.job.batch(n)[0]) for n in range(self.batches)]
        return [np.asarray(sum(of) / self.batches, np.float32) for of in zip(*steps, strict=True)]

    def cut(self, names: Names, chosen: np.ndarray) -> None:
        """Leaves only the chosen rows, or keys, of these arrays."""
        if names[0] in ("encoder", ROWS):
            self.layout = dataclasses.replace(self.layout, encoder=len(chosen))
        self._put({name: self.arrays[name][..., chosen, :] for name in names})

    def multiply(self, names: Names, mask: np.ndarray) -> None:
        """Multiplies the pieces of these arrays."""
        self._put({name: np.asarray(gated(self.arrays[name], mask)) for name in names})

    def _put(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays |= arrays
        if ROWS in arrays:
            self.arrays["encoder"] = arrays[ROWS][0]


def gated(x: Any, gates: Any) -> Any:
    """x [..., D] times gates [..., q], each of which is for D / q numbers.

    >>> gated(np.ones((1, 4)), np.array([[2.0, 0.0]])).tolist()
    [[2.0, 2.0, 0.0, 0.0]]
    """
    spread = gates.repeat(x.shape[-1] // gates.shape[-1], axis=-1)
    return x * spread.reshape((1,) * (x.ndim - spread.ndim) + spread.shape)
