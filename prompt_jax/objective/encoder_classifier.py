"""A classifier on the encoder's mean state, trained beside the prompt."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import TermParam
from prompt_jax.methods.parts.start import Start
from prompt_jax.objective.columns import Column, Label
from prompt_jax.objective.forwards import OWN, Passes
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings

COLUMN = "encoder_classifier/label"


@settings
class EncoderClassifier(LossTerm):
    """The cross-entropy of a linear classifier over the mean of the encoder's text columns.

    W h + b with h [D] the mean of an example's states, prompt columns left out, W 0 at first. The
    head of P-tuning v2 (Liu et al. 2022, section 3.2) stands on the first token's state, of which a
    T5 has none, and takes the decoder's place; here it is added to the decoder's loss. The group
    `EncoderClassifier` of `Train.group_rates` is W and b.

    Attributes:
      labels: the classes, as the task's targets spell them.
      export_head: whether W [D, K] and b [K] are saved beside the prompt (`terms.safetensors`).
    """

    owns_parameters = True
    labels: tuple[str, ...]
    weight: float | Schedule = 1.0
    export_head: bool = False

    def check(self):
        super().check()
        if len(set(self.labels)) < max(len(self.labels), 2):
            raise UserError(
                Setting("EncoderClassifier", "labels", self.labels),
                remedy="give two or more, each once",
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Label(COLUMN, self.labels),)

    def create(self, key: jax.Array, start: Start) -> "Head":
        return Head(start.config.emb_dim, len(self.labels))

    def export(self, module: "Head") -> dict[str, np.ndarray]:
        if not self.export_head:
            return {}
        return {"kernel": np.asarray(module.kernel[...]), "bias": np.asarray(module.bias[...])}

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        def measure(passes: Passes, batch) -> jax.Array:
            own, head = passes[OWN], passes.module("EncoderClassifier")
            label = batch[COLUMN]
            logits = head(mean_state(own.encoded, own.text))
            chosen = jnp.take_along_axis(
                jax.nn.log_softmax(logits), jnp.maximum(label, 0)[:, None], axis=1
            )[:, 0]
            real = label >= 0
            return -jnp.sum(chosen * real) / jnp.maximum(jnp.sum(real), 1)

        return measure


class Head(nnx.Module):
    """h [B, D] to float32 logits [B, K]."""

    def __init__(self, width: int, classes: int):
        self.kernel = TermParam(jnp.zeros((width, classes), jnp.float32))
        self.bias = TermParam(jnp.zeros((classes,), jnp.float32))

    def __call__(self, state: jax.Array) -> jax.Array:
        return state @ self.kernel[...] + self.bias[...][None]


def mean_state(encoded: jax.Array, text: jax.Array) -> jax.Array:
    """float32 [B, D]: the mean of states [B, T, D] over the columns that are text, bool [B, T]."""
    weights = text.astype(jnp.float32)[..., None]
    total = jnp.sum(encoded.astype(jnp.float32) * weights, axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
