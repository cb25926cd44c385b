"""The training loss: T5X's, the sum over weighted target tokens of the batch plus its z-loss.

A batch may come in pieces (`Train.accumulate`). Their sums add up, and the gradient is divided by a
count of the whole batch afterwards, so that the pieces do not change what the loss is.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from prompt_jax.model.logprobs import token_losses
from prompt_jax.settings import above, at_least, settings, shares

Normaliser = Literal["NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"]
COUNTS: dict[str, str] = {  # the sum that counts what a normaliser divides by
    "NUM_REAL_TARGET_TOKENS": "tokens",
    "NUM_TOTAL_TARGET_TOKENS": "target_columns",
    "AVERAGE_PER_SEQUENCE": "examples",
}


@struct.dataclass
class Per:
    """A sum that is reported divided by another of the same steps, the metric named `of`."""

    total: jax.Array
    of: str = struct.field(pytree_node=False, default="tokens")

    def __float__(self) -> float:
        return float(self.total)


@settings
class Loss:
    """Settings of the cross-entropy.

    Attributes:
      z_loss: weight of log(Z)**2 per target token (T5X's recipes: 1e-4).
      label_smoothing: probability taken from the target and shared among all other tokens.
      loss_normalizing_factor: what the sum is divided by, with T5X's names. None: nothing, as in
        T5X's recipes. A number. `NUM_REAL_TARGET_TOKENS`: the weights of the whole batch added up,
        so that the loss is a mean per target token, as that of transformers' models.
        `NUM_TOTAL_TARGET_TOKENS`: its target columns, padding among them.
        `AVERAGE_PER_SEQUENCE`: each example's mean per token, and the mean of these.
      weight: what it is times in what is minimised; 0: a run's terms are all that counts.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | Normaliser | None = None
    weight: float = 1.0

    def check(self):
        shares("Loss", {"label_smoothing": self.label_smoothing})
        at_least("Loss", 0, {"z_loss": self.z_loss, "weight": self.weight})
        above("Loss", 0, {"loss_normalizing_factor": self.scale})

    @property
    def scale(self) -> float:
        """The number that each piece of a batch is divided by."""
        factor = self.loss_normalizing_factor
        return factor if isinstance(factor, float) else 1.0

    @property
    def unit(self) -> str:
        """The sum that counts what a mean in the loss is taken over: target tokens or examples."""
        return "examples" if self.count == "examples" else "tokens"

    @property
    def count(self) -> str | None:
        """The sum over the whole batch that its gradient is divided by; None: there is none."""
        factor = self.loss_normalizing_factor
        return COUNTS[factor] if isinstance(factor, str) else None

    def __call__(self, model, batch, dropout_key=None, step=0) -> tuple[jax.Array, dict[str, Any]]:
        """`of` the logits [B, S, V] that `model(batch, key)` gives; the same at every step."""
        return self.of(model(batch, dropout_key), batch)

    def of(self, logits: jax.Array, batch) -> tuple[jax.Array, dict[str, Any]]:
        """What is minimised of one batch's logits [B, S, V], not yet divided by `count`, and sums.

        The second value holds float32 scalars that add up over batches, whatever the loss is
        divided by: `loss`, `z_loss`, `accuracy` (right tokens, `Per` tokens), `tokens` (the sum of
        the weights), and `count`.
        """
        loss, z_loss, likeliest = self.of_tokens(logits, batch["decoder_target_tokens"])
        return self.summed(loss, z_loss, likeliest, batch)

    def of_tokens(self, logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        """Of every target [B, S]: its loss and z-loss, float32, and the likeliest token, int32."""
        losses = token_losses(logits, targets, self.z_loss, self.label_smoothing)
        return *losses, jnp.argmax(logits, axis=-1)

    def summed(
        self, loss: jax.Array, z_loss: jax.Array, likeliest: jax.Array, batch
    ) -> tuple[jax.Array, dict[str, Any]]:
        """`of`, from what `of_tokens` gives."""
        weights = loss_weights(batch)
        right = (likeliest == batch["decoder_target_tokens"]) * weights
        shares, counted = SHARES[self.count](batch, weights)
        sums = {
            "loss": jnp.sum(loss * weights),
            "z_loss": jnp.sum(z_loss * weights),
            "accuracy": Per(jnp.sum(right)),
            "tokens": jnp.sum(weights),
            **counted,
        }
        total = jnp.sum(loss * shares) / self.scale
        return total if self.weight == 1 else self.weight * total, sums


def toward(wanted: jax.Array, logits: jax.Array, batch, temperature: float) -> jax.Array:
    """float32 []: per target token, the cross-entropy of softmax(logits / temperature) against
    softmax(wanted / temperature); both [B, S, V]."""
    share = jax.nn.softmax(wanted / temperature)
    log_share = jax.nn.log_softmax(logits / temperature)
    return mean_per_token(-jnp.sum(share * log_share, axis=-1), batch)


def mean_per_token(values: jax.Array, batch) -> jax.Array:
    """float32 []: the mean of values [B, S] over target tokens, by their weights."""
    weights = loss_weights(batch)
    return jnp.sum(values * weights) / jnp.sum(weights)


def example_shares(batch, weights: jax.Array) -> jax.Array:
    """`weights` [B, S] divided by their sum over the example, so that each example's add up to 1.

    An example is a segment of a row; a row without segment ids is one.
    """
    segments = batch.get("decoder_segment_ids", jnp.ones_like(batch["decoder_target_tokens"]))
    together = segments[:, :, None] == segments[:, None, :]
    whole = jnp.sum(together * weights[:, None, :], axis=-1)
    return weights / jnp.where(whole > 0, whole, 1.0)


def loss_weights(batch) -> jax.Array:
    """float32 [B, S]: `decoder_loss_weights` where given, else 1 at real targets, as in T5X."""
    if "decoder_loss_weights" in batch:
        return batch["decoder_loss_weights"]
    return (batch["decoder_target_tokens"] > 0).astype(jnp.float32)


# By `Loss.count`: the weight of each target in what is minimised, and the sum that counts it.
SHARES: dict[str | None, Callable[..., tuple[jax.Array, dict[str, Any]]]] = {
    None: lambda batch, weights: (weights, {}),
    "tokens": lambda batch, weights: (weights, {}),
    "target_columns": lambda batch, weights: (
        weights,
        {"target_columns": jnp.float32(weights.size)},
    ),
    "examples": lambda batch, weights: _counted(example_shares(batch, weights)),
}


def _counted(shares: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    return shares, {"examples": jnp.sum(shares)}
