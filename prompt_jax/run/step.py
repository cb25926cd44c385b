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

from prompt_jax.methods.base import TermParam
from prompt_jax.objective.rules import GradRule, NoRule


@struct.dataclass
class TrainState:
    """All that a step changes: int32 step, float32 trainables, states of optimizer and rule."""

    step: jax.Array
    trainable: Any  # nnx.State
    opt_state: Any
    rule_state: Any = ()


def split(model: nnx.Module, trainable: type[nnx.Variable]):
    """(graphdef, trainable state, frozen state) of a model; what terms own trains in any case."""
    return nnx.split(model, nnx.Any(trainable, TermParam), ...)


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


def as_whole(grads: Any) -> tuple[Any, dict[str, Any]]:
    """(gradient, its parts) of a gradient that has none."""
    return grads, {}


def as_parts(grads: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(gradient, its parts), which add up to it."""
    return jax.tree.map(lambda *parts: sum(parts), *grads.values()), grads


def make_gradient(
    graphdef,
    loss: Callable,
    accumulate: int = 1,
    rule: GradRule | None = None,
    count: str | None = None,
) -> Callable:
    """`(state, frozen, batch, key) -> (gradient, sums)`; `key` is the dropout key of a run.

    With a `rule` that is `apart`, `loss` gives its parts, and the gradient is {part: gradient}.
    `count` (`Loss.count`) names the sum that the gradient of the whole batch is divided by.
    """
    make = make_grads if (rule or NoRule()).apart else make_grad
    grad = normalised(accumulated(make(graphdef, loss), accumulate), count)

    def gradient(state: TrainState, frozen, batch, key):
        key = None if key is None else jax.random.fold_in(key, state.step)
        return grad(state.trainable, frozen, batch, key, state.step)

    return gradient


def make_update(tx, rule: GradRule | None = None) -> Callable:
    """`(state, gradient, sums, key) -> (state, metrics)`: the rule, then the optimizer `tx`, which
    ends with the projection, if there is one. `gradient` is what `make_gradient` gives with the
    same rule; `key` is a key of the run, for rules that draw."""
    rule = rule or NoRule()
    ruled, both = rule.build(), as_parts if rule.apart else as_whole
    tx = optax.with_extra_args_support(tx)

    def update(state: TrainState, found, sums, key=None):
        gradient, parts = both(found)
        key = jax.random.fold_in(jax.random.key(0) if key is None else key, state.step)
        extra = {"parts": parts, "key": key, "step": state.step}
        params = state.trainable
        gradient, rule_state = ruled.update(gradient, state.rule_state, params, **extra)
        updates, opt_state = tx.update(gradient, state.opt_state, params, **extra)
        trainable = optax.apply_updates(params, updates)
        norms = {
            "grad_norm": optax.tree.norm(gradient),
            "update_norm": optax.tree.norm(updates),
            "trainable_norm": optax.tree.norm(trainable),
        }
        return TrainState(state.step + 1, trainable, opt_state, rule_state), {**sums, **norms}

    return update


def make_train_step(
    graphdef,
    loss,
    tx,
    seed_key,
    state_sharding,
    accumulate: int = 1,
    rule: GradRule | None = None,
    count: str | None = None,
    rule_key: jax.Array | None = None,
) -> Callable:
    """The jitted step `(state, frozen, batch) -> (state, metrics)`; `state` is donated.

    `seed_key` is the dropout key of the run, folded with the step; None turns dropout off.
    `rule_key` is the rule's own. Metrics are float32 scalars: the sums of the loss, and the norms
    of the gradient (after the rule), of the update (after the projection) and of what trains.
    """
    gradient = make_gradient(graphdef, loss, accumulate, rule, count)
    update = make_update(tx, rule)

    def train_step(state: TrainState, frozen, batch):
        return update(state, *gradient(state, frozen, batch, seed_key), rule_key)

    out = (state_sharding, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out)
