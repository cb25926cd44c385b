"""TFUP-T: TFUP's cache, whose keys are trained on the rows without labels.

After Long et al. 2024 (https://arxiv.org/abs/2404.16339). With p the predictions of zero-shot
scores and the cache together, and c the labels that TFUP's cache gives before it is trained,

    loss = mean over rows of -log p_c - H(mean over rows of p)

The entropy H of the mean prediction keeps the rows from being given one label all together. Keys
are trained, the model is not; its answers are those that the cache was made of. Port: Adam at 1e-3,
200 steps, all rows in each, are ours.

Shapes: n rows, D model width, K labels, M rows of the cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prompt_jax.evaluate.evidence import Evidence
from prompt_jax.evaluate.tfup import TFUP, parts

RATE, STEPS = 1e-3, 200


@dataclass(frozen=True)
class TFUPT:
    """The cache, with arrays as of `TFUP`."""

    arrays: Mapping[str, np.ndarray]
    alphas = TFUP.alphas
    needs_labels = False

    @classmethod
    def fit(
        cls, evidence: Evidence, labels: Sequence[str], steps: int = STEPS, weight: float = 1.0
    ) -> "TFUPT":
        """The cache of rows, trained; `weight`: of the entropy. Labels are not looked at."""
        cache = TFUP.fit(evidence, labels)
        states, alike, of_label = map(jnp.asarray, parts(cache.arrays, evidence))
        scores = jnp.asarray(evidence.scores[0])
        given = jnp.argmax(scores + cache.added(evidence), axis=1)
        tx, keys = optax.adam(RATE), jnp.asarray(cache.arrays["keys"])

        def loss(keys: jax.Array) -> jax.Array:
            return of_scores(scores + (states @ _unit(keys).T * alike) @ of_label, given, weight)

        def step(carry, _):
            keys, state = carry
            updates, state = tx.update(jax.grad(loss)(keys), state)
            return (keys + jnp.asarray(updates), state), None

        (keys, _), _ = jax.lax.scan(step, (keys, tx.init(keys)), None, length=steps)
        return cls({**cache.arrays, "keys": np.asarray(_unit(keys))})

    def added(self, evidence: Evidence) -> np.ndarray:
        """float32 [n, K]: as of `TFUP`."""
        return TFUP(self.arrays).added(evidence)


def of_scores(scores_nK: jax.Array, given_n: jax.Array, weight: float) -> jax.Array:
    """float32 []: the cross-entropy of the labels that were given, less weight H(mean p)."""
    log_p = jax.nn.log_softmax(scores_nK)
    mean = jnp.mean(jnp.exp(log_p), axis=0)
    entropy = -jnp.sum(mean * jnp.log(mean + 1e-9))
    return -jnp.mean(jnp.take_along_axis(log_p, given_n[:, None], axis=1)) - weight * entropy


def _unit(keys: jax.Array) -> jax.Array:
    return keys / jnp.maximum(jnp.linalg.norm(keys, axis=-1, keepdims=True), 1e-12)
