"""The loss of a large vocabulary, whose logits are never whole.

mT5 has 250,112 pieces: the logits of 8 rows of 128 targets take a gigabyte, as much again their
gradient. Each target's loss depends on its own logits alone, so that the targets can be taken a few
columns at a time, the losses and their gradients with respect to the decoder's output together. No
product is computed twice. The head must be frozen: it gets no gradient.

Shapes: B rows, S decoder columns, N pieces of columns, D model width, V vocabulary.
"""

import jax
import jax.numpy as jnp

from prompt_jax.objective.loss import Loss

WHOLE = 2**25  # float32 numbers (128 MB): logits up to here are made at once
PIECE = 2**24  # of a piece, where one column of the batch is not more


def pieces(rows: int, columns: int, vocabulary: int) -> int:
    """In how many pieces the columns of a batch are taken; 1: at once.

    >>> pieces(16, 42, 8192), pieces(8, 128, 250112)
    (1, 16)
    """
    if rows * columns * vocabulary <= WHOLE:
        return 1
    return min(columns, -(-rows * columns * vocabulary // PIECE))


class InPieces:
    """A `Loss`, called as one, that makes the logits of large batches piece by piece."""

    def __init__(self, loss: Loss):
        self.loss = loss

    def __call__(self, model, batch, dropout_key=None, step=0):
        """As `Loss`; `model` is a `PromptedT5` whose head is frozen."""
        rows, columns = batch["decoder_target_tokens"].shape
        count = pieces(rows, columns, model.t5.config.vocab_size)
        if count == 1:
            return self.loss(model, batch, dropout_key, step)
        return self.of_decoded(model.t5, model.decoded(batch, dropout_key), batch, count)

    def of_decoded(self, t5, decoded_BSD: jax.Array, batch, count: int):
        """`Loss.of` the decoder's output, its columns in `count` pieces."""
        targets_BS = batch["decoder_target_tokens"]
        B, S, D = decoded_BSD.shape
        width = -(-S // count)
        room = ((0, 0), (0, width * count - S))
        still = jax.lax.stop_gradient(decoded_BSD)
        parts = (
            jnp.pad(still, (*room, (0, 0))).reshape(B, count, width, D).swapaxes(0, 1),
            jnp.pad(targets_BS, room).reshape(B, count, width).swapaxes(0, 1),
        )

        def piece(part):
            decoded, targets = part

            def total(decoded):
                loss, *rest = self.loss.of_tokens(t5.logits(decoded), targets)
                return jnp.sum(loss), (loss, *rest)

            slope, each = jax.grad(total, has_aux=True)(decoded)
            return slope, *each

        slope, loss, z_loss, likeliest = (
            jax.lax.stop_gradient(x.swapaxes(0, 1).reshape(B, width * count, *x.shape[3:])[:, :S])
            for x in jax.lax.map(piece, parts)
        )
        # Zero, with the gradient that was computed with the losses.
        along = jnp.sum((decoded_BSD - still).astype(jnp.float32) * slope, axis=-1)
        return self.loss.summed(loss + along, z_loss, likeliest, batch)
