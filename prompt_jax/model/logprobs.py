"""What the logits say of given tokens."""

import jax
import jax.numpy as jnp
import numpy as np

EOS = 1  # the token that ends an output, in every T5


def token_losses(
    logits_BSV: jax.Array, targets_BS: jax.Array, z_loss: float, label_smoothing: float
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy (its z-loss included) and z-loss of every target, float32 [B, S] each.

    With smoothing e over V tokens the target distribution is 1-e on the target and e/(V-1)
    elsewhere, and the entropy of that distribution is subtracted, so a perfect model scores 0.
    """
    log_z = jax.nn.logsumexp(logits_BSV, axis=-1)
    target = jnp.take_along_axis(logits_BSV, targets_BS[..., None], axis=-1)[..., 0]
    loss = log_z - target
    if label_smoothing:
        V = logits_BSV.shape[-1]
        on, off = 1.0 - label_smoothing, label_smoothing / (V - 1)
        others = V * log_z - jnp.sum(logits_BSV, axis=-1) - loss
        entropy = -(on * np.log(on) + (V - 1) * off * np.log(off + 1e-20))
        loss = on * loss + off * others - entropy
    z = z_loss * log_z**2
    return loss + z, z
