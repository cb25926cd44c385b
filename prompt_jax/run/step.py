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
    """`(trainable, frozen, batch, key, step) -> (gradient, sums)` of a loss over one batch."""

    def objective(trainable, frozen, batch, key, step=0):
        return loss(nnx.merge(graphdef, trainable, frozen), batch, key, step)

    return jax.grad(objective, has_aux=True)


def make_grads(graphdef, parts: Callable) -> Callable:
    """As `make_grad`, of a loss in parts: `({part: gradient}, sums)`.

    There is one forward pass, and a backward pass for each part.
    """

    def gradients(trainable, frozen, batch, key, step=0):
        def objective(trainable):
            return parts(nnx.merge(graphdef, trainable, frozen), batch, key, step)

        values, backward, sums = jax.vjp(objective, trainable, has_aux=True)
        one = {name: {n: jnp.float32(n == name) for n in values} for name in values}
        return {name: backward(one[name])[0] for name in values}, sums

    return gradients


def accumulated(grad: Callable, pieces: int) -> Callable:
    """The same gradient, summed over `pieces` equal parts of the batch, one after the other."""
    if pieces == 1:
        return grad

    def summed(trainable, frozen, batch, key, step=0):
        # Row r goes to part r % pieces, so that every device keeps rows in every part.
        parts = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, inputs):
            part, index = inputs
            part_key = None if key is None else jax.random.fold_in(key, index)
            return jax.tree.map(jnp.add, total, grad(trainable, frozen, part, part_key, step)), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(grad, trainable, frozen, first, key, step)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (parts, jnp.arange(pieces)))[0]

    return summed


def normalised(grad: Callable, count: str | None) -> Callable:
    """The same gradient, divided by one of the sums over the whole batch."""
    if count is None:
        return grad

    def divided(trainable, frozen, batch, key, step=0):
        grads, sums = grad(trainable, frozen, batch, key, step)
        return jax.tree.map(lambda g: g / jnp.maximum(sums[count], 1e-9), grads), sums

    return divided


def make_gradient(
    graphdef,
    loss: Callable,
    accumulate: int = 1,
    rule: Callable | None = None,
    count: str | None = None,
) -> Callable:
    """`(state, frozen, batch, key) -> (gradient, sums)`; `key` is the dropout key of a run.

    With `rule` (`rules.GradRule`) `loss` gives its parts; the rule makes one gradient of theirs.
    `count` (`Loss.count`) names the sum that the gradient of the whole batch is divided by.
    """
    make = make_grad if rule is None else make_grads
    grad = normalised(accumulated(make(graphdef, loss), accumulate), count)
    combine = rule or (lambda grads, trainable: grads)

    def gradient(state: TrainState, frozen, batch, key):
        key = None if key is None else jax.random.fold_in(key, state.step)
        grads, sums = grad(state.trainable, frozen, batch, key, state.step)
        return combine(grads, state.trainable), sums

    return gradient


def make_update(tx, after: Callable | None = None) -> Callable:
    """`(state, gradient, sums) -> (state, metrics)`: the optimizer, then `after` (`PostUpdate`)."""
    project = after or (lambda trainable: trainable)

    def update(state: TrainState, grads, sums):
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        trainable = project(optax.apply_updates(state.trainable, updates))
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "trainable_norm": optax.tree.norm(trainable),
        }
        return TrainState(state.step + 1, trainable, opt_state), {**sums, **norms}

    return update


def make_train_step(
    graphdef, loss, tx, seed_key, state_sharding, accumulate=1, rule=None, after=None, count=None
) -> Callable:
    """The jitted step `(state, frozen, batch) -> (state, metrics)`; `state` is donated.

    `seed_key` is the dropout key of the run, folded with the step; None turns dropout off. Metrics
    are float32 scalars: the sums of the loss and the norms of gradient, update and trainables.
    """
    gradient = make_gradient(graphdef, loss, accumulate, rule, count)
    update = make_update(tx, after)

    def train_step(state: TrainState, frozen, batch):
        return update(state, *gradient(state, frozen, batch, seed_key))

    out = (state_sharding, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out)
