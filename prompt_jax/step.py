"""One training step. The gradient of the prompt is taken here, and of nothing else.

The model is split once into what trains and what is frozen (`PromptMethod.trainable`); gradient,
optimizer, donation and checkpoint see only the trainable half.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct


@struct.dataclass
class TrainState:
    """All that a step changes: int32 step, float32 trainables, the optimizer's state."""

    step: jax.Array
    trainable: Any  # nnx.State
    opt_state: Any


def split(model: nnx.Module, trainable: type[nnx.Variable]):
    """(graphdef, trainable state, frozen state) of a model."""
    return nnx.split(model, trainable, ...)


def make_grad(graphdef, loss: Callable) -> Callable:
    """`(trainable, frozen, batch, key) -> (gradient, sums)` of a loss over one batch."""

    def objective(trainable, frozen, batch, key):
        return loss(nnx.merge(graphdef, trainable, frozen), batch, key)

    return jax.grad(objective, has_aux=True)


def accumulated(grad: Callable, pieces: int) -> Callable:
    """The same gradient, summed over `pieces` equal parts of the batch, one after the other."""
    if pieces == 1:
        return grad

    def summed(trainable, frozen, batch, key):
        # Row r goes to part r % pieces, so that every device keeps rows in every part.
        parts = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, inputs):
            part, index = inputs
            part_key = None if key is None else jax.random.fold_in(key, index)
            return jax.tree.map(jnp.add, total, grad(trainable, frozen, part, part_key)), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(grad, trainable, frozen, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (parts, jnp.arange(pieces)))[0]

    return summed


def make_train_step(graphdef, loss, tx, seed_key, state_sharding, accumulate=1) -> Callable:
    """The jitted step `(state, frozen, batch) -> (state, metrics)`; `state` is donated.

    `seed_key` is the dropout key of the run, folded with the step; None turns dropout off. Metrics
    are float32 scalars: the sums of `Loss` and the norms of gradient, update and trainables.
    """
    grad = accumulated(make_grad(graphdef, loss), accumulate)
    fold = (lambda step: None) if seed_key is None else (lambda s: jax.random.fold_in(seed_key, s))

    def train_step(state: TrainState, frozen, batch):
        grads, sums = grad(state.trainable, frozen, batch, fold(state.step))
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "trainable_norm": optax.tree.norm(trainable),
        }
        return TrainState(state.step + 1, trainable, opt_state), {**sums, **norms}

    out = (state_sharding, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out)
