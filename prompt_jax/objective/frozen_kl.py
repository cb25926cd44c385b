"""Predictions held to those of the frozen model."""

import jax

from prompt_jax.objective.forwards import BARE, OWN, Forward, Passes
from prompt_jax.objective.loss import toward
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import above, settings


@settings
class FrozenKL(LossTerm):
    """Holds predictions to those of the frozen model without the prompt.

    Per target token, the cross-entropy of the model's distribution over the vocabulary against the
    frozen model's: KL(frozen || prompted), but for a constant. The "general knowledge" of Zhu et
    al. 2023 (https://arxiv.org/abs/2205.14865), who take a classifier's classes.

    Attributes:
      temperature: both logits are divided by it.
    """

    weight: float | Schedule = 1.0
    temperature: float = 1.0

    def check(self):
        super().check()
        above("FrozenKL", 0, {"temperature": self.temperature})

    @property
    def forwards(self) -> tuple[Forward, ...]:
        return (BARE,)

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        def measure(passes: Passes, batch) -> jax.Array:
            return toward(passes[BARE].logits, passes[OWN].logits, batch, self.temperature)

        return measure
