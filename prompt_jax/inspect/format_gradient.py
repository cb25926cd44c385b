"""How much of a gradient is of the target's format: a diagnostic of Wang et al. 2024.

The format gradient (https://arxiv.org/abs/2211.00635) is that of the same batch with its targets
shuffled among the examples, which leaves the form of an answer and takes away what it is about.
The cosine of both is near 1 while a model learns the format (the paper: about 0.96 to 0.99 at step
0) and small once it learns the task (0.05 to 0.2 at step 400).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from prompt_jax.data.source import DECODER_FEATURES, Data
from prompt_jax.errors import UserError
from prompt_jax.model import sharding
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train
from prompt_jax.run.step import make_grad

MOVED = (*DECODER_FEATURES, "decoder_loss_weights")


def shuffled(batch: dict[str, np.ndarray], seed: int, step: int) -> dict[str, np.ndarray]:
    """A batch of one example to a row with targets of other rows, of the same task."""
    order, rng = np.arange(len(batch["encoder_task_ids"])), np.random.default_rng([seed, step])
    tasks = batch["encoder_task_ids"].max(axis=1)
    for task in np.unique(tasks):
        rows = np.flatnonzero(tasks == task)
        order[rows] = rng.permutation(rows)
    return {name: x[order] if name in MOVED else x for name, x in batch.items()}


def make_cosine(graphdef: Any, loss: Callable) -> Callable:
    """`(trainable, frozen, batch, other) -> float32`: the cosine of two batches' gradients, without
    dropout, over all that trains."""
    grad = make_grad(graphdef, loss)

    @jax.jit
    def cosine(trainable, frozen, batch, other):
        one, two = (grad(trainable, frozen, b, None)[0] for b in (batch, other))
        return optax.tree.vdot(one, two) / (optax.tree.norm(one) * optax.tree.norm(two))

    return cosine


def measure(
    run: Train, folder: str, steps: Sequence[int], batches: int = 4, show: Callable = print
) -> list[dict[str, Any]]:
    """Trains a run from its start and measures at `steps`; it saves and evaluates nothing.

    Args:
      folder: of the run; nothing is written there.
      steps: steps of training before each measurement, 0 for the start.
      batches: so many are measured, those of the steps that would follow.
      show: is given each result as it is there.

    Returns:
      `{"step": ..., "cosines": [...]}` for each of `steps`, in ascending order.

    Raises:
      UserError: rows hold several examples, or none of `steps` is 0 or more.
    """
    if not isinstance(run.data, Data) or run.data.packed:
        raise UserError(
            "Data.packed",
            "the format gradient needs one example of a task to a row",
            "give --gin.Data.packed=False",
        )
    if not steps or min(steps) < 0:
        raise UserError(f"steps {list(steps)}", remedy="give some, of 0 or more")
    job = Run(run, epath.Path(folder))
    cosine, state, measured = make_cosine(job.graphdef, run.loss), job.first_state(), []
    for step in range(max(steps) + 1):
        if step in steps:
            pairs = [both(job, step + number) for number in range(batches)]
            values = [float(cosine(state.trainable, job.frozen, *pair)) for pair in pairs]
            measured.append({"step": step, "cosines": values})
            show(measured[-1])
        if step < max(steps):
            state, _ = job.train_step(state, job.frozen, job.batch(step)[0])
    return measured


def both(job: Run, step: int) -> list[dict[str, jax.Array]]:
    """A step's batch and the same with shuffled targets, as global arrays."""
    size, places = job.settings.data.batch_size, sharding.rows(job.mesh)
    here, batch = sharding.local_rows(places, size), job.data.batch(step)
    parts = (batch, shuffled(batch, job.settings.seed, step))
    local = [{name: x[here] for name, x in part.items()} for part in parts]
    return [sharding.put_rows(part, places, here, size) for part in local]
