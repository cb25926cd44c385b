"""The loss of text that is not trained on: the evaluation of pretraining."""

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.answer.answerer import nothing
from prompt_jax.data.corpus import Corpus
from prompt_jax.model import sharding
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings


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

    def read(self, data: Any) -> Corpus:
        return self.corpus.read()

    def scored(self, data: Any) -> dict[str, str]:
        """What is scored, for the record."""
        return {"split": "held_out"}

    def open(self, text: Corpus, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh):
        """An `Evaluator` of what `read` gave: `held_out_loss` and `held_out_accuracy` per target
        token, the means of the languages, and `held_out_loss/LANGUAGE` where there are several
        (the folder of its files; `root` of those beside the folders)."""
        sharding.check_rows(mesh, text.batch_size)
        parts = text.languages()
        fixed = {}
        for part in parts:
            batches = part.open(vocabulary, layout, seed)
            fixed[part.language] = [batches.batch(step) for step in range(self.batches)]

        def evaluate(graphdef, trainable, frozen, between=nothing):
            losses, accuracies = {}, {}
            for language, chosen in fixed.items():
                total = {"loss": 0.0, "z_loss": 0.0, "accuracy": 0.0, "tokens": 0.0}
                for batch in chosen:
                    between()
                    placed = sharding.put_all(batch, mesh)
                    sums = _sums(graphdef, trainable, frozen, placed)
                    total = {name: value + float(sums[name]) for name, value in total.items()}
                losses[language] = (total["loss"] - total["z_loss"]) / total["tokens"]
                accuracies[language] = total["accuracy"] / total["tokens"]
            metrics = {
                "held_out_loss": sum(losses.values()) / len(losses),
                "held_out_accuracy": sum(accuracies.values()) / len(accuracies),
            }
            if len(losses) > 1:
                metrics |= {
                    f"held_out_loss/{name or 'root'}": loss for name, loss in losses.items()
                }
            return metrics, []

        return evaluate


@partial(jax.jit, static_argnums=0)
def _sums(graphdef, trainable, frozen, batch):
    return Loss()(nnx.merge(graphdef, trainable, frozen), batch)[1]
