"""One step of several prompts over one frozen model: the step of a run, mapped over its members.

Each member has a row of every array that is its own: trainables, optimizer, the method's frozen
arrays, dropout key, learning rate, batch. The backbone is not mapped, so that a product with its
weights is one product over the rows of all members.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.sharding import NamedSharding, PartitionSpec

from prompt_jax.model.sharding import replicated
from prompt_jax.run.job import Run, dropout_key, loss_of, rule_key
from prompt_jax.run.settings import Train
from prompt_jax.run.step import TrainState, make_gradient, make_update

SHARED = nnx.PathContains("t5")  # of a PromptedT5: all but what its method and terms own


@struct.dataclass
class Slot:
    """What a member brings; with a leading axis [N], what all of them do.

    Attributes:
      fixed: the arrays of the method and of terms that do not train.
      key: uint32 [2], of dropout; None where nothing is dropped.
      rule_key: uint32 [2], of the rule for gradients.
      rate: float32, the schedule's learning rate.
    """

    state: TrainState
    fixed: Any
    key: Any  # an array; numpy, as the two below, where a member enters
    rule_key: jax.Array | np.ndarray
    rate: jax.Array | np.float32


def slot_of(run: Run, state: TrainState) -> Slot:
    """What a run brings, in a state of its own."""
    key, rate = dropout_key(run.settings), run.settings.optimizer.schedule.learning_rate
    _, fixed = nnx.split_state(run.frozen, SHARED, ...)
    data = None if key is None else np.asarray(jax.random.key_data(key))
    rule = np.asarray(jax.random.key_data(rule_key(run.settings)))
    return Slot(state, fixed, data, rule, np.float32(rate))


def backbone_of(run: Run) -> Any:
    """The frozen arrays that all members share."""
    return nnx.split_state(run.frozen, SHARED, ...)[0]


def program_of(run: Train) -> tuple:
    """All that is compiled into a run's step but for its arrays: equal, one step serves both."""
    method, optimizer = run.method, run.optimizer
    schedule = dataclasses.replace(optimizer.schedule, learning_rate=1.0)
    batch = {n: (x.shape, str(x.dtype)) for n, x in run.data.features(method.layout).items()}
    return (
        (run.backbone, run.mesh, run.accumulate, batch),
        (type(method), method.layout, method.visibility, method.dropout_rate),
        (dataclasses.replace(optimizer, schedule=schedule), run.group_rates),
        (run.loss, run.terms, run.grad_rule, run.post_update),
    )


def signature(run: Run) -> tuple:
    """Structure and shapes of a run's model: equal, one step serves both."""
    arrays = jax.tree.leaves((run.trainable, run.frozen))
    return run.graphdef, [(x.shape, x.dtype) for x in arrays]


def member_gradient(run: Run) -> Callable:
    """`(slot, backbone, batch) -> (gradient, sums)` of one member; `run` is any of them."""
    settings = run.settings
    loss, rule = loss_of(settings, run.backbone.vocabulary), settings.rule
    gradient = make_gradient(run.graphdef, loss, settings.accumulate, rule, settings.loss.count)

    def of_member(slot: Slot, backbone, batch):
        key = None if slot.key is None else jax.random.wrap_key_data(slot.key)
        return gradient(slot.state, nnx.merge_state(backbone, slot.fixed), batch, key)

    return of_member


def member_updates(run: Run) -> Callable:
    """`(slots, gradients, sums) -> (slots, metrics)` of all members.

    A device updates its members one after the other, so that sums over an array are added up in the
    order in which they are added up alone.
    """
    settings = run.settings

    def update(inputs):
        slot, grads, sums = inputs
        step = make_update(settings.transform(slot.rate), settings.rule)
        state, metrics = step(slot.state, grads, sums, jax.random.wrap_key_data(slot.rule_key))
        return slot.replace(state=state), metrics

    def one_by_one(inputs):
        return jax.lax.map(update, inputs)

    if run.mesh.size == 1:
        return one_by_one
    own = PartitionSpec("data")
    return jax.shard_map(one_by_one, mesh=run.mesh, in_specs=own, out_specs=own, check_vma=False)


def make_farm_step(run: Run) -> Callable:
    """The jitted step `(slots, backbone, batch) -> (slots, metrics)`; `slots` are donated.

    Everything but the backbone has the members' axis in front. `run` is any of them.
    """
    gradients = jax.vmap(member_gradient(run), in_axes=(0, None, 0))
    updates = member_updates(run)

    def farm_step(slots: Slot, backbone, batch):
        return updates((slots, *gradients(slots, backbone, batch)))

    places = (members(run), replicated(run.mesh))
    return jax.jit(farm_step, donate_argnums=0, out_shardings=places)


def members(run: Run) -> NamedSharding:
    """Where arrays with the members' axis lie: members along `data`."""
    return NamedSharding(run.mesh, PartitionSpec("data"))


def empty(slot: Slot, count: int, places: NamedSharding) -> Slot:
    """`count` slots like this one, of zeros."""
    shapes = jax.eval_shape(lambda: slot)
    one = lambda x: jnp.zeros((count, *x.shape), x.dtype)  # noqa: E731
    zeros = lambda: jax.tree.map(one, shapes)  # noqa: E731
    return jax.jit(zeros, out_shardings=places)()


def put_rows(rows: dict[str, np.ndarray], places: NamedSharding) -> dict[str, jax.Array]:
    """Batches of all members, [N, B, ...], of which a process puts those of its own slots."""
    put = lambda x: jax.make_array_from_callback(x.shape, places, x.__getitem__)  # noqa: E731
    return {name: put(value.copy()) for name, value in rows.items()}


def put(slots: Slot, number: jax.Array | int, slot: Slot) -> Slot:
    """The slots with a member in one of them."""
    return jax.tree.map(lambda all_, one: all_.at[number].set(one), slots, slot)


def take(slots: Slot, number: jax.Array | int) -> TrainState:
    """The state of the member in a slot."""
    return jax.tree.map(lambda x: x[number], slots.state)
