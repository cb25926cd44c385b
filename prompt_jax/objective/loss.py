"""The training loss: T5X's, the sum over weighted target tokens of the batch plus its z-loss."""

import jax
import jax.numpy as jnp

from prompt_jax.errors import Setting, UserError
from prompt_jax.model.logprobs import token_losses
from prompt_jax.settings import settings


@settings
class Loss:
    """Settings of the cross-entropy.

    Attributes:
      z_loss: weight of log(Z)**2 per target token (T5X's recipes: 1e-4).
      label_smoothing: probability taken from the target and shared among all other tokens.
      loss_normalizing_factor: what the sums are divided by; None: nothing, as in T5X's recipes.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | None = None

    def check(self):
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                Setting("Loss", "label_smoothing", self.label_smoothing),
                remedy="give 0 <= value < 1",
            )

    @property
    def scale(self) -> float:
        """What the sums are divided by."""
        return 1.0 if self.loss_normalizing_factor is None else self.loss_normalizing_factor

    def __call__(
        self, model, batch, dropout_key=None, step=0
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`of` the logits [B, S, V] that `model(batch, key)` gives; the same at every step."""
        return self.of(model(batch, dropout_key), batch)

    def of(self, logits: jax.Array, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of one batch's logits [B, S, V], and its sums.

        The second value holds float32 scalars that add up over batches: `loss`, `z_loss`,
        `accuracy` (right tokens), `tokens` (the sum of the weights).
        """
        targets, weights = batch["decoder_target_tokens"], loss_weights(batch)
        loss, z_loss = token_losses(logits, targets, self.z_loss, self.label_smoothing)
        right = (jnp.argmax(logits, axis=-1) == targets) * weights
        total = jnp.sum(loss * weights) / self.scale
        sums = {
            "loss": total,
            "z_loss": jnp.sum(z_loss * weights) / self.scale,
            "accuracy": jnp.sum(right),
            "tokens": jnp.sum(weights),
        }
        return total, sums


def loss_weights(batch) -> jax.Array:
    """float32 [B, S]: `decoder_loss_weights` where given, else 1 at real targets, as in T5X."""
    if "decoder_loss_weights" in batch:
        return batch["decoder_loss_weights"]
    return (batch["decoder_target_tokens"] > 0).astype(jnp.float32)
