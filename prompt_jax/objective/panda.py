"""PANDA: a target's prompt learns from its source's for as long, and as much, as the two agree."""

from typing import Literal

import jax
import jax.numpy as jnp

from prompt_jax.errors import Setting, UserError
from prompt_jax.objective.distillation import Distillation, Taught
from prompt_jax.objective.forwards import OWN, Forward, Passes
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import above, settings

By = Literal["means", "pairs", "responses"]


@settings
class Panda(Taught):
    """sim(source, target) KL(source || target) per target token, over the whole vocabulary.

    Zhong et al. 2022 (https://arxiv.org/abs/2208.10160): beside prompt transfer, the frozen model
    with the source's prompt is a teacher. How much it counts is the similarity of the two prompts
    and a weight that decays (`weight`: a schedule). The released code has a constant weight, the
    squared distance of logits, and dropout in the teacher; there is none here. The labels of source
    and target may differ, so that distributions over the whole vocabulary are compared.

    Attributes:
      teacher: the source's prompt, as of `Distillation`.
      by: the similarity, with the run's own prompt as it is at the step, below 0 taken as 0:
        `means`, the cosine of mean rows; `pairs`, the mean cosine of every two rows; `responses`,
        the mean over a batch of the cosine of the decoder's first outputs, which the paper's
        authors prefer to what rows alone say.
      temperature: of both distributions.
    """

    weight: float | Schedule = 1.0
    by: By = "responses"
    temperature: float = 1.0

    def check(self):
        super().check()
        above("Panda", 0, {"temperature": self.temperature})

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        if self.by != "responses" and not layout.encoder:
            raise UserError(
                Setting("Panda", "by", self.by),
                "the run has no encoder rows",
                "bind Panda.by = 'responses'",
            )
        kept = Distillation(teacher=self.teacher, temperature=self.temperature)
        measure_kl, (teacher,) = kept.open(vocabulary, layout), self.forwards

        def measure(passes: Passes, batch) -> jax.Array:
            alike = self._similarity(passes, teacher)
            return jax.lax.stop_gradient(alike) * measure_kl(passes, batch)

        return measure

    def _similarity(self, passes: Passes, teacher: Forward) -> jax.Array:
        """float32, between 0 and 1."""
        if self.by == "responses":
            own, wanted = (responses(passes[f].decoded, passes.batch) for f in (OWN, teacher))
            return jnp.maximum(jnp.mean(jnp.sum(_unit(own) * _unit(wanted), axis=-1)), 0.0)
        rows, wanted = (passes[f].bundle.encoder for f in (OWN, teacher))
        if rows is None or wanted is None:
            raise UserError(
                Setting("Panda", "by", self.by),
                f"the teacher {self.teacher!r} has no encoder rows",
                "bind Panda.by = 'responses'",
            )
        return jnp.maximum(row_similarity(rows[0], wanted[0], self.by), 0.0)


def responses(decoded_BSD: jax.Array, batch) -> jax.Array:
    """float32 [B, D]: the decoder's output where each row's first target is."""
    first_B = jnp.argmax(batch["decoder_target_tokens"] > 0, axis=1)
    first_B1D = jnp.take_along_axis(decoded_BSD, first_B[:, None, None], axis=1)
    return first_B1D[:, 0].astype(jnp.float32)


def row_similarity(a_PD: jax.Array, b_QD: jax.Array, by: str) -> jax.Array:
    """As `transfer.similarity` of two prompts, float32.

    >>> a, b = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 1.0], [2.0, 0.0]])
    >>> float(row_similarity(a, b, "pairs"))
    0.5
    """
    if by == "means":
        return jnp.sum(_unit(a_PD.mean(axis=0)) * _unit(b_QD.mean(axis=0)))
    return jnp.sum(_unit(a_PD).mean(axis=0) * _unit(b_QD).mean(axis=0))


def _unit(x: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm == 0, 1.0, norm)
