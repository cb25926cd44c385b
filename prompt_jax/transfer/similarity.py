"""Similarity of tasks by their prompts, and prompts made of prompts: SPoT, arrays in, arrays out.

Vu et al. 2022 (https://arxiv.org/abs/2110.07904), section 4. A task's embedding is an early
checkpoint of its prompt, float32 [P, D]; of prompts with decoder rows, the encoder's rows alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.prompt.library import Entry

Kind = Literal["means", "pairs"]


def cosine_of_means(a: np.ndarray, b: np.ndarray) -> float:
    """cos(mean_i a_i, mean_j b_j) of prompts [P, D] and [Q, D].

    >>> cosine_of_means(np.array([[3.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 1.0]]))
    0.7071067811865475
    """
    one, other = (
        _unit(np.asarray(rows, np.float64).mean(axis=0, keepdims=True)) for rows in (a, b)
    )
    return float(one[0] @ other[0])


def mean_of_cosines(a: np.ndarray, b: np.ndarray) -> float:
    """sum_ij cos(a_i, b_j) / (P Q): the dot product of the means of the rows at length one.

    >>> mean_of_cosines(np.array([[3.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]]))
    0.5
    """
    return float(_unit(a).mean(axis=0) @ _unit(b).mean(axis=0))


def _unit(rows: np.ndarray) -> np.ndarray:
    """The rows at length one, float64; a row of zeros stays."""
    rows = np.asarray(rows, np.float64)
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norm == 0, 1, norm)


SIMILARITIES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "means": cosine_of_means,
    "pairs": mean_of_cosines,
}


def similarity_of(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Both similarities of two embeddings."""
    return {kind: compare(a, b) for kind, compare in SIMILARITIES.items()}


def rank(embedding: np.ndarray, sources: Sequence[Entry], by: Kind) -> list[dict[str, Any]]:
    """The sources by their similarity to a target's embedding [P, D], the nearest first.

    Each row: `source`, `task`, both similarities, `score` and `selection` of the source.
    """
    rows = [
        {
            "source": source.name,
            "task": source.facts["task"],
            **similarity_of(embedding, source.embedding().array),
            "score": source.facts["score"],
            "early_step": source.facts["early_step"],
        }
        for source in sources
    ]
    return sorted(rows, key=lambda row: (-row[by], row["source"]))


def matrix(sources: Sequence[Entry], by: Kind) -> np.ndarray:
    """float64 [N, N]: the similarity of every two entries."""
    rows = [source.embedding().array for source in sources]
    return np.array([[SIMILARITIES[by](a, b) for b in rows] for a in rows])


def weights(ranking: Sequence[Mapping[str, Any]], by: Kind) -> list[float]:
    """alpha_j = sim_j / sum of sim: what each of k sources counts in the average.

    Raises:
      UserError: a similarity that is not positive, which no weight can be.
    """
    for row in ranking:
        if row[by] <= 0:
            raise UserError(
                f"source {row['source']!r}",
                f"has similarity {row[by]:.3f}: an average takes positive ones",
                "give a smaller --k",
            )
    total = sum(row[by] for row in ranking)
    return [row[by] / total for row in ranking]


def average(prompts: Sequence[Prompt], alphas: Sequence[float]) -> dict[str, np.ndarray]:
    """sum_j alpha_j P_j of every side, float32."""
    return {
        side: np.sum(
            [w * np.float64(p.arrays[side]) for w, p in zip(alphas, prompts, strict=True)], axis=0
        ).astype(np.float32)
        for side in prompts[0].arrays
    }
