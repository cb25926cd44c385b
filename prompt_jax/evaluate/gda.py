"""GDA: Gaussian discriminant analysis of a frozen encoder's states, added to zero-shot scores.

Wang et al. 2024 (https://arxiv.org/abs/2402.04087). The classes are Gaussians with one covariance:
with n rows, class means mu_c, the pooled covariance S of the rows around them and shares pi_c,

    precision = D pinv((n - 1) S + trace(S) I)
    w_c = precision mu_c,   b_c = log pi_c - mu_c' precision mu_c / 2

and the scores are zero-shot + alpha (f w + b). The paper's zero-shot scores are cosines times 100;
here they are log-likelihoods of the labels. Nothing is trained; alpha is chosen on rows that
neither fit the head nor are scored.

Shapes: n rows, D model width, K labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.evaluate.evidence import Evidence


@dataclass(frozen=True)
class GDA:
    """The head: `weights` float32 [D, K] and `bias` float32 [K], D K + K numbers."""

    arrays: Mapping[str, np.ndarray]
    alphas = tuple(10.0**power for power in range(-4, 3))
    needs_labels = True

    @classmethod
    def fit(cls, evidence: Evidence, labels: Sequence[str]) -> "GDA":
        """The head of labelled rows.

        Raises:
          UserError: a label that no row has.
        """
        features, classes = evidence.features[0].astype(np.float64), evidence.labels
        counts = np.bincount(classes, minlength=len(labels))
        if missing := [label for label, count in zip(labels, counts, strict=True) if not count]:
            raise UserError(
                "--method=gda", f"no row to fit has the label {missing[0]!r}", "take more rows"
            )
        means = np.stack([features[classes == c].mean(axis=0) for c in range(len(labels))])
        around = features - means[classes]
        n, D = features.shape
        covariance = around.T @ around / max(n - 1, 1)
        room = np.trace(covariance) * np.eye(D)
        precision = D * np.linalg.pinv((n - 1) * covariance + room, hermitian=True)
        weights = precision @ means.T
        bias = np.log(counts / n) - 0.5 * np.sum(means.T * weights, axis=0)
        return cls({"weights": weights.astype(np.float32), "bias": bias.astype(np.float32)})

    def added(self, evidence: Evidence) -> np.ndarray:
        """float32 [n, K]: what is added to the zero-shot scores, times alpha."""
        return evidence.features[0] @ self.arrays["weights"] + self.arrays["bias"]
