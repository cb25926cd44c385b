"""What a frozen model says of rows, for heads that are computed and not trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """What T members, each a template with a prompt, say of n rows.

    Attributes:
      features: float32 [T, n, D], the mean of the encoder's states, scaled to length 1.
      scores: float32 [T, n, K], the log-likelihood of each label.
      labels: int64 [n], the number of each row's target among the labels; -1 where it is none.
    """

    features: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors [..., D] scaled to length 1."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(norm, 1e-12)).astype(np.float32)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """float32 [n, K]: softmax of scores."""
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)


def best_alpha(
    alphas: Sequence[float], scores: np.ndarray, added: np.ndarray, labels: np.ndarray
) -> float:
    """Which alpha gives most rows their label by scores + alpha * added, [n, K]; the smallest of
    equals."""
    right = [(np.argmax(scores + a * added, axis=1) == labels).sum() for a in alphas]
    return alphas[int(np.argmax(right))]
