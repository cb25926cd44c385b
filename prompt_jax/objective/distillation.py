"""Predictions held to those of a teacher: the same frozen model with a saved prompt."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

from prompt_jax.objective.forwards import OWN, Forward, Passes
from prompt_jax.objective.loss import mean_per_token
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import above, settings


@settings
class Taught(LossTerm):
    """A term with a teacher.

    Attributes:
      teacher: an artefact, a library's entry or a `.npy`; "": an earlier stage's (`PassTeacher`).
    """

    teacher: str = ""

    @property
    def forwards(self) -> tuple[Forward, ...]:
        return (Forward(artefact=self.teacher),)

    def taught_by(self, teacher: str) -> Self:
        return dataclasses.replace(self, teacher=teacher)


@settings
class Distillation(Taught):
    """temperature^2 KL(teacher || run) per target token, over the whole vocabulary.

    Hinton et al. 2015 (https://arxiv.org/abs/1503.02531), section 2; the teacher is a saved prompt
    on the same frozen backbone, as in PANDA (Zhong et al. 2022, https://arxiv.org/abs/2208.10160)
    and MPT (Wang et al. 2023, https://arxiv.org/abs/2303.02861). It has no dropout here, and may
    have other rows than the run in rows of one example. A table of rows by task
    (`MultitaskPrompt`) is a teacher of its own for each task, where the run has the same tasks.

    Attributes:
      temperature: both logits are divided by it.
    """

    weight: float | Schedule = 1.0
    temperature: float = 1.0

    def check(self):
        super().check()
        above("Distillation", 0, {"temperature": self.temperature})

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        (teacher,) = self.forwards

        def measure(passes: Passes, batch) -> jax.Array:
            wanted = jax.nn.log_softmax(passes[teacher].logits / self.temperature)
            own = jax.nn.log_softmax(passes[OWN].logits / self.temperature)
            divergence = jnp.sum(jnp.exp(wanted) * (wanted - own), axis=-1)
            return self.temperature**2 * mean_per_token(divergence, batch)

        return measure
