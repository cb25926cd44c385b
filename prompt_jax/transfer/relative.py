"""PTfer: a prompt of one backbone sought in another by where its rows lie among known pieces.

Wu et al. 2024 (https://arxiv.org/abs/2310.01691). Anchors are pieces that both vocabularies have. A
row p of the source is described by its cosines with the source's embeddings of the anchors, of
which the `top` largest are kept; the target's row q is the one whose cosines with the target's
embeddings of the same anchors point in the same direction:

    q = argmax cos( m * cos(q, T), m * cos(p, S) ),   m = 1 where cos(p, S_j) is among the largest

Of several sources, prompts of as many rows for other backbones, cos(p, S) is the mean of theirs.
It is sought by Adam at 5e-3 from a Xavier start; after every step all rows are given the mean and
the deviation of the target's table, two numbers. Every so often the paper scores what it has on
validation examples and keeps the best, so that "zero-shot" means no gradient through the target.
Near its optimum the search is not stable: of candidates that nothing scores, the one with the
largest cosine counts.

Shapes: P rows, n anchors, D and D' widths of source and target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

RATE = 5e-3

Norm = Literal["table", "ratio"]


@dataclass(frozen=True)
class Search:
    """How rows are sought.

    Attributes:
      steps: of Adam.
      every: steps between two candidates.
      top: of the anchors that describe a row.
      norm: of the rows in the end: the target table's (`table`, the paper), or by the `ratio` of
        the source's row to the mean embedding: prompts are often far longer than embeddings.
    """

    steps: int = 2000
    every: int = 200
    top: int = 8192
    norm: Norm = "table"


Source = tuple[np.ndarray, np.ndarray]  # a prompt [P, D] and the anchors of its backbone [n, D]


def profile(sources: Sequence[Source], top: int) -> np.ndarray:
    """float32 [P, n]: the `top` largest cosines of each row with the anchors, of several sources in
    the mean; 0 elsewhere.

    >>> one = np.array([[2.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]])
    >>> other = np.array([[5.0]]), np.array([[1.0], [1.0], [-1.0]])
    >>> profile([one], 2).round(1)
    array([[0.6, 0. , 1. ]], dtype=float32)
    >>> profile([one, other], 2).round(1)
    array([[0.8, 0.5, 0. ]], dtype=float32)
    """
    each = [np.asarray(cosines_of(*map(jnp.asarray, source))) for source in sources]
    cosines = np.mean(each, axis=0)
    if top < cosines.shape[1]:
        least = np.partition(cosines, -top, axis=1)[:, -top]
        cosines = np.where(cosines >= least[:, None], cosines, 0.0)
    return cosines.astype(np.float32)


def cosines_of(rows_PD: jax.Array, anchors_nD: jax.Array) -> jax.Array:
    """[P, n]."""
    return _unit(rows_PD) @ _unit(anchors_nD).T


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def standardised(rows_PD: jax.Array, mean: float, deviation: float) -> jax.Array:
    """The rows with that mean and standard deviation over all of their numbers.

    >>> standardised(jnp.array([[1.0, 3.0]]), 10.0, 2.0).tolist()
    [[8.0, 12.0]]
    """
    return (rows_PD - rows_PD.mean()) / rows_PD.std() * deviation + mean


def candidates(
    search: Search, sources: Sequence[Source], T: np.ndarray, seed: int = 0
) -> list[tuple[np.ndarray, float]]:
    """Rows [P, D'] for those of prompts, after each `every` steps, and the mean cosine of their
    profiles with the sources'. T [n, D']: the anchors' embeddings in the target."""
    wanted, P = jnp.asarray(profile(sources, search.top)), len(sources[0][0])
    anchors, table = jnp.asarray(T), (float(T.mean()), float(T.std()))
    bound = (6 / (P + T.shape[1])) ** 0.5  # Xavier's
    rows = jax.random.uniform(jax.random.key(seed), (P, T.shape[1]), jnp.float32, -bound, bound)
    rows, tx, made = standardised(rows, *table), optax.adam(RATE), []
    state = tx.init(rows)

    def away(rows: jax.Array) -> jax.Array:
        found = jnp.where(wanted != 0, cosines_of(rows, anchors), 0.0)
        return -jnp.mean(jnp.sum(_unit(found) * _unit(wanted), axis=1))

    @partial(jax.jit, static_argnums=1)
    def go_on(carry, steps: int):
        def step(carry, _):
            rows, state = carry
            updates, state = tx.update(jax.grad(away)(rows), state)
            return (standardised(rows + jnp.asarray(updates), *table), state), None

        carry, _ = jax.lax.scan(step, carry, None, length=steps)
        return carry, -away(carry[0])

    for done in range(0, search.steps, search.every):
        (rows, state), alike = go_on((rows, state), min(search.every, search.steps - done))
        made.append((_sized(search.norm, np.asarray(rows), sources, T), float(alike)))
    return made


def _sized(norm: Norm, rows: np.ndarray, sources: Sequence[Source], T: np.ndarray) -> np.ndarray:
    if norm == "table":
        return rows
    ratio = np.mean([_lengths(P) / _lengths(S).mean() for P, S in sources], axis=0)
    return (rows / _lengths(rows) * ratio * _lengths(T).mean()).astype(np.float32)


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1, keepdims=True)


def best_of(scores: Sequence[float], direction: str) -> int:
    """The number of the first of the best."""
    return int(np.argmax(scores) if direction == "max" else np.argmin(scores))
