"""The loss of text that is not trained on: the evaluation of pretraining."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.answer.answerer import nothing
from prompt_jax.data.contract import Source
from prompt_jax.data.corpus import Corpus
from prompt_jax.data.rows import Example
from prompt_jax.model import sharding
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class HeldOutLoss:
    """Evaluation of pretraining: the loss of text that is not trained on, by language.

    Attributes:
      period: steps between evaluations.
      corpus: where the text comes from; with `language_exponent`, each language is measured apart.
      batches: how many of each language are averaged.
    """

    period: int
    corpus: Corpus
    batches: int = 8

    def check(self):
        at_least(type(self).__name__, 1, {"period": self.period, "batches": self.batches})

    @property
    def batch_size(self) -> int:
        """Rows at once."""
        return self.corpus.batch_size

    @property
    def answering(self) -> None:
        """Nothing is asked."""
        return None

    def read(self, data: Source) -> "HeldOutCorpus":
        """Checks that the files are there."""
        return HeldOutCorpus(self.corpus.read(), self.batches)

    def scored(self, data: Source) -> dict[str, str]:
        """What is scored, for the record."""
        return {"split": "held_out"}


@dataclass(frozen=True)
class HeldOutCorpus:
    """Text, of which the first so many batches of each language are measured."""

    corpus: Corpus
    batches: int

    @property
    def examples(self) -> dict[str, Sequence[Example]]:
        """Plain text has no examples."""
        return {}

    def digest(self) -> str:
        """SHA-256 of the files' names, sizes and first and last mebibytes."""
        return self.corpus.digest()

    def shortfalls(self) -> list[str]:
        """No number of lines was published."""
        return []

    def open(self, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh) -> "HeldOutScorer":
        """The rows that are measured are those that the seed would train on first."""
        sharding.check_rows(mesh, self.corpus.batch_size)
        rows = {}
        for part in self.corpus.languages():
            batches = part.open(vocabulary, layout, seed)
            rows[part.language] = [batches.batch(step) for step in range(self.batches)]
        return HeldOutScorer(rows, mesh)


class HeldOutScorer:
    """`held_out_loss` and `held_out_accuracy` per target token, the means of the languages, and
    `held_out_loss/LANGUAGE` where there are several (the folder of its files; `root` of those
    beside the folders).

    `rows`: batches of each language.
    """

    def __init__(self, rows: dict[str, list[dict[str, np.ndarray]]], mesh: Mesh):
        self.rows, self.mesh = rows, mesh

    def __call__(
        self, graphdef, trainable, frozen, between: Callable[[], None] = nothing
    ) -> tuple[dict[str, float], list[dict]]:
        """The metrics; `between` is called before each batch. There are no examples to list."""
        losses, accuracies = {}, {}
        for language, batches in self.rows.items():
            total = {"loss": 0.0, "z_loss": 0.0, "accuracy": 0.0, "tokens": 0.0}
            for batch in batches:
                between()
                placed = sharding.put_all(batch, self.mesh)
                sums = _sums(graphdef, trainable, frozen, placed)
                total = {name: value + float(sums[name]) for name, value in total.items()}
            losses[language] = (total["loss"] - total["z_loss"]) / total["tokens"]
            accuracies[language] = total["accuracy"] / total["tokens"]
        metrics = {
            "held_out_loss": sum(losses.values()) / len(losses),
            "held_out_accuracy": sum(accuracies.values()) / len(accuracies),
        }
        if len(losses) > 1:
            metrics |= {f"held_out_loss/{name or 'root'}": loss for name, loss in losses.items()}
        return metrics, []

    def majority(self) -> dict[str, float]:
        """Text has no commonest answer."""
        return {}


@partial(jax.jit, static_argnums=0)
def _sums(graphdef, trainable, frozen, batch):
    return Loss()(nnx.merge(graphdef, trainable, frozen), batch)[1]
