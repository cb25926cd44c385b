"""The state of a run on disk: Orbax checkpoints of step, trainables and optimizer; never the backbone.

A checkpoint is written beside its final name and renamed, so a half-written one is never read. The
position in the data and the dropout key are functions of the step and the seed; both, and all else
that a resumed run must share with its beginning, stand in the checkpoint's `facts`.
"""

import logging
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.settings import settings
from prompt_jax.step import TrainState


@settings
class Checkpoints:
    """When checkpoints are written and which are kept.

    Attributes:
      period: steps between checkpoints; the last step always gets one.
      keep: how many of the latest are kept.
      keep_period: checkpoints at multiples of it are kept for good.
    """

    period: int = 1000
    keep: int = 2
    keep_period: int | None = None

    def check(self):
        if self.period < 1 or self.keep < 1:
            raise UserError(f"Checkpoints.period = {self.period}, keep = {self.keep}: at least 1")


class RunCheckpoints:
    """The checkpoints of one model_dir."""

    def __init__(self, model_dir: epath.Path, options: Checkpoints, facts: dict[str, Any]):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.facts = facts
        self.manager = ocp.CheckpointManager(
            model_dir / "checkpoints",
            item_names=("state", "facts"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=options.keep,
                keep_period=options.keep_period,
                enable_async_checkpointing=False,
            ),
        )

    def save(self, state: TrainState) -> None:
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(named_leaves(state)),
                facts=ocp.args.JsonSave(self.facts),
            ),
        )
        self.manager.wait_until_finished()

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def restore(self, state: TrainState) -> TrainState:
        """The latest checkpoint in the shapes, dtypes and shardings of `state`; else `state`."""
        step = self.latest_step()
        if step is None:
            return state
        facts = self.manager.restore(
            step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())
        )["facts"]  # fmt: skip
        for name, value in self.facts.items():
            if facts[name] != value:
                raise UserError(
                    f"model_dir holds a run with {name} = {facts[name]!r}, this one has {value!r}: "
                    "use another --model_dir, or the first run's recipe"
                )
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            named_leaves(state),
        )
        restored = self.manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        )["state"]  # fmt: skip
        return jax.tree.unflatten(jax.tree.structure(state), list(map(restored.get, like)))

    def close(self) -> None:
        self.manager.close()


def named_leaves(tree: Any) -> dict[str, jax.Array]:
    """The leaves of a pytree by their path, in its order: `trainable.prompt.encoder` and so on."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    assert len(set(names)) == len(names), names
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))
