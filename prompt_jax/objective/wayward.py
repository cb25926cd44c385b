"""Wayward prompts: a prompt held to a text."""

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.methods.parts.inits import pieces_of
from prompt_jax.objective.forwards import OWN, Passes
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings


@settings
class Wayward(LossTerm):
    """Holds a prompt to a text: (1/P) sum over rows of |p_i - E(w_i)|^2, w the pieces of `text`.

    Khashabi et al. 2022 (https://arxiv.org/abs/2112.08348), with the weight of their experiments,
    added once to a loss that is a sum over tokens, as google-research/prompt-tuning does.
    """

    per_token = False
    text: str
    weight: float | Schedule = 0.01

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        ids = np.zeros(layout.encoder, np.int32)
        if vocabulary is not None:
            ids = np.asarray(pieces_of(vocabulary, self.text), np.int32)
        if len(ids) != layout.encoder:
            raise UserError(
                "Wayward.text",
                f"has {len(ids)} pieces, the prompt {layout.encoder} encoder rows",
                f"set PROMPT_LENGTH to {len(ids)}",
            )

        def measure(passes: Passes, batch) -> jax.Array:
            rows = passes[OWN].bundle.encoder
            assert rows is not None  # a method without encoder rows was refused above
            away = rows - passes.embedding[ids].astype(jnp.float32)[None]
            return jnp.mean(jnp.sum(away**2, axis=-1))

        return measure
