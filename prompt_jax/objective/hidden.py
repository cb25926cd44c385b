"""Hidden states held to those of a teacher: MPT's second distillation."""

import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.objective.distillation import Taught
from prompt_jax.objective.forwards import OWN, Forward, Passes
from prompt_jax.objective.loss import mean_per_token
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings


@settings
class HiddenDistillation(Taught):
    """Mean squared distance of hidden states to a teacher's: the encoder's output over columns of
    text, plus the decoder's over target tokens.

    Wang et al. 2023 (MPT, https://arxiv.org/abs/2303.02861), section 4.1, beside `Distillation` and
    at the same weight. The teacher stands as the run's prompt does, so that columns are the same; a
    table of rows, one prompt for each task, is a teacher of its own for each example.
    """

    weight: float | Schedule = 0.9

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        teacher = Forward(artefact=self.teacher)

        def measure(passes: Passes, batch) -> jax.Array:
            own, wanted = passes[OWN], passes[teacher]
            if own.encoded.shape != wanted.encoded.shape:
                raise UserError(
                    f"teacher {self.teacher!r}",
                    "has other rows than the run, so that columns are not the same",
                    "leave HiddenDistillation out, or give the run as many rows",
                )
            encoder_BT = _distance(own.encoded, wanted.encoded)
            of_text = jnp.sum(encoder_BT * own.text) / jnp.maximum(jnp.sum(own.text), 1)
            return of_text + mean_per_token(_distance(own.decoded, wanted.decoded), batch)

        return measure


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """float32 [B, T]: the mean square over the width."""
    return jnp.mean(jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)), axis=-1)
