"""TFUP: a cache of unlabelled rows, whose labels are the frozen model's own.

After Long et al. 2024 (https://arxiv.org/abs/2404.16339), without training. Of the rows that the
model gives a label, the most `confident` make the label's prototype, the mean of their states;
`keep` of them, the closest to it, are the cache. A row's score of label c gets alpha times the mean
over the cache's rows k of that label of

    cos(f, f_k) exp(-KL(p || p_k))

the likeness of states and of predictions p. The paper's encoder is CLIP's. A T5's states share a
large mean, which is taken out before they are scaled to length 1. Port: the form of both
likenesses is ours, the abstract names no more. A cache belongs to one prompt.

Shapes: n rows, D model width, K labels, M rows of the cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prompt_jax.evaluate.evidence import Evidence, probabilities, unit

CONFIDENT, KEEP = 16, 8  # rows of each label


@dataclass(frozen=True)
class TFUP:
    """The cache: `keys` float32 [M, D], `predictions` float32 [M, K], `labels` int32 [M], and the
    `mean` [D] of all states."""

    arrays: Mapping[str, np.ndarray]
    alphas = (1.0,)
    needs_labels = False

    @classmethod
    def fit(cls, evidence: Evidence, labels: Sequence[str]) -> "TFUP":
        """The cache of rows; their labels are not looked at."""
        mean = evidence.features[0].mean(axis=0)
        features, shares = unit(evidence.features[0] - mean), probabilities(evidence.scores[0])
        given = shares.argmax(axis=1)
        rows: list[int] = []
        for label in range(len(labels)):
            own = np.flatnonzero(given == label)
            sure = own[np.argsort(-shares[own, label], kind="stable")[:CONFIDENT]]
            if len(sure):
                near = features[sure] @ unit(features[sure].mean(axis=0))
                rows += sorted(sure[np.argsort(-near, kind="stable")[:KEEP]])
        return cls(
            {
                "keys": features[rows],
                "predictions": shares[rows],
                "labels": given[rows].astype(np.int32),
                "mean": mean,
            }
        )

    def added(self, evidence: Evidence) -> np.ndarray:
        """float32 [n, K]: what is added to the zero-shot scores, times alpha."""
        states, alike, of_label = parts(self.arrays, evidence)
        return (states @ self.arrays["keys"].T * alike) @ of_label


def parts(
    cache: Mapping[str, np.ndarray], evidence: Evidence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [n, D], [n, M] and [M, K]: the rows' states of length 1, how alike their predictions
    are to the cache's, and the share of each row of the cache in the mean of its label."""
    states, shares = unit(evidence.features[0] - cache["mean"]), probabilities(evidence.scores[0])
    log_own, log_cached = np.log(shares + 1e-9), np.log(cache["predictions"] + 1e-9)
    divergence = np.sum(shares * log_own, axis=1)[:, None] - shares @ log_cached.T
    of_label = np.eye(evidence.scores.shape[-1], dtype=np.float32)[cache["labels"]]
    return states, np.exp(-divergence), of_label / np.maximum(of_label.sum(axis=0), 1)
