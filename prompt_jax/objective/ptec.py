"""PTEC: a head of labels on the decoder's first state, trained with the prompt.

Prompt-tuned embedding classification, Buchner et al. 2024 (https://arxiv.org/abs/2309.12075): a
linear head on a frozen model's state and a binary cross-entropy for each label, so that a text may
have several; head and prompt learn at rates of their own. Port: a T5's first decoder state, which
has read the whole text, stands for a decoder's last. The likelihood of a written answer is no part
of it: bind Loss.weight = 0.

Shapes: B rows, D model width, K labels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.parts.start import Start
from prompt_jax.objective.columns import Column, Labels
from prompt_jax.objective.forwards import OWN, Passes
from prompt_jax.objective.heads import AnsweringHead
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings

COLUMN = "ptec/labels"


@settings
class PTEC(LossTerm):
    """The mean over labels of the binary cross-entropy of W h + b, h the decoder's first state.

    A label's positives weigh as much as its negatives in the training rows. `Evaluation.mode =
    'head'` answers by the head, and the prompt's `terms.safetensors` has it. The group `PTEC` of
    `Train.group_rates` is W and b.

    Attributes:
      labels: the classes, as the task's targets spell them.
      separator: between the labels of a target that has several.
    """

    owns_parameters = True
    answers = True
    labels: tuple[str, ...]
    separator: str = ", "
    weight: float | Schedule = 1.0

    def check(self):
        super().check()
        if len(set(self.labels)) < max(len(self.labels), 2):
            raise UserError(
                Setting("PTEC", "labels", self.labels), remedy="give two or more, each once"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Labels(COLUMN, self.labels, self.separator),)

    def create(self, key: jax.Array, start: Start) -> AnsweringHead:
        return AnsweringHead(start.config.emb_dim, self.labels, self.separator)

    def export(self, module: nnx.Module) -> dict[str, np.ndarray]:
        assert isinstance(module, AnsweringHead)
        return module.arrays()

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        def measure(passes: Passes, batch) -> jax.Array:
            head = passes.module("PTEC")
            assert isinstance(head, AnsweringHead)
            logits, wanted = head(passes[OWN].decoded[:, layout.decoder]), batch[COLUMN]
            real = jnp.max(batch["decoder_target_tokens"], axis=1) > 0
            return of_labels(logits, wanted, batch[f"{COLUMN}/positive"], real)

        return measure


def of_labels(
    logits_BK: jax.Array, wanted_BK: jax.Array, positive_BK: jax.Array, real_B: jax.Array
) -> jax.Array:
    """float32 []: -(w y log p + (1 - y) log(1 - p)), its mean over labels and real rows."""
    likely = positive_BK * wanted_BK * jax.nn.log_sigmoid(logits_BK)
    unlikely = (1 - wanted_BK) * jax.nn.log_sigmoid(-logits_BK)
    each_B = -jnp.mean(likely + unlikely, axis=1)
    return jnp.sum(each_B * real_B) / jnp.maximum(jnp.sum(real_B), 1)
