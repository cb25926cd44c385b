"""T-Few's two losses over the choices that are not the target.

Liu et al. 2022 (https://arxiv.org/abs/2205.05638), section 3.2: the target's likelihood is `Loss`;
`Unlikelihood` and `LengthNormalised` are added to it with weight 1. An example's other choices are
segments of one row of the decoder that read its one segment of the encoder
(`columns.Choices`), so that nothing is encoded twice; the target itself is in the run's own pass.

Shapes: B rows, W columns of the other choices.
"""

import jax
import jax.numpy as jnp

from prompt_jax.model.logprobs import token_losses
from prompt_jax.objective.columns import Choices, Column
from prompt_jax.objective.forwards import OWN, Forward, Pass, Passes
from prompt_jax.objective.loss import example_shares, loss_weights
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings

ROOM = 1e-2  # in the logarithm beside 1 - p, as in the authors' code


class OverChoices(LossTerm):
    """A term over an example's other choices.

    Attributes:
      width: columns of the decoder for all of them together, EOS and the decoder's prompt rows
        included; both terms share a pass where they have one width.
      skip_longer: an example whose other choices take more has no such loss; False: it is refused.
    """

    width: int
    skip_longer: bool

    def check(self):
        super().check()
        at_least(type(self).__name__, 1, {"width": self.width})

    @property
    def choices(self) -> Choices:
        return Choices(self.width, self.skip_longer)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.choices,)

    @property
    def forwards(self) -> tuple[Forward, ...]:
        return (Forward(batch=self.choices.name),)

    def others(self, passes: Passes) -> Pass:
        """The pass over the other choices."""
        return passes[self.forwards[0]]


@settings
class Unlikelihood(OverChoices):
    """The mean of -log(1 - p(token) + 0.01) over all tokens of the other choices of a batch.

    Attributes: `width` and `skip_longer` as of `OverChoices`.
    """

    width: int = 64
    skip_longer: bool = False
    weight: float | Schedule = 1.0

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        def measure(passes: Passes, batch) -> jax.Array:
            others = self.others(passes)
            weights = loss_weights(others.batch)
            unlikely = -jnp.log(1 - jnp.exp(-losses_of(others)) + ROOM)
            return jnp.sum(unlikely * weights) / jnp.maximum(jnp.sum(weights), 1)

        return measure


@settings
class LengthNormalised(OverChoices):
    """The cross-entropy of the target among all choices, by their mean log-likelihood per token.

    -log(exp(b_target) / sum over choices of exp(b)), b the mean of log p over a choice's tokens,
    and the mean of this over the batch's examples with other choices.

    Attributes: `width` and `skip_longer` as of `OverChoices`.
    """

    width: int = 64
    skip_longer: bool = False
    weight: float | Schedule = 1.0

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        def measure(passes: Passes, batch) -> jax.Array:
            own, others = passes[OWN], self.others(passes)
            target_B1 = mean_losses(own)[:, :1]
            shares = example_shares(others.batch, loss_weights(others.batch))
            # The shares of a choice's columns add up to 1, so that each choice counts once.
            scores = -jnp.concatenate([target_B1, mean_losses(others)], axis=1)
            counts = jnp.concatenate([jnp.ones_like(target_B1), shares], axis=1)
            total = jax.nn.logsumexp(scores, axis=1, b=counts)
            chosen = jnp.any(shares > 0, axis=1)
            return jnp.sum((total + target_B1[:, 0]) * chosen) / jnp.maximum(jnp.sum(chosen), 1)

        return measure


def losses_of(some: Pass) -> jax.Array:
    """float32 [B, W]: -log p of each target token of a pass."""
    return token_losses(some.logits, some.batch["decoder_target_tokens"], 0.0, 0.0)[0]


def mean_losses(some: Pass) -> jax.Array:
    """float32 [B, W]: at each column the mean of -log p over its segment's target tokens."""
    shares = example_shares(some.batch, loss_weights(some.batch))
    segments = some.batch["decoder_segment_ids"]
    together = segments[:, :, None] == segments[:, None, :]
    return jnp.sum(together * (losses_of(some) * shares)[:, None, :], axis=-1)
