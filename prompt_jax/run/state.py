"""A run's state on disk: Orbax checkpoints of step, trainables and optimizer, never the backbone.

A checkpoint is written beside its final name and renamed, so a half-written one is never read. The
position in the data and the dropout key are functions of the step and the seed; both, and all else
that a resumed run must share with its beginning, stand in the checkpoint's `facts`.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from prompt_jax.errors import RunError, UserError
from prompt_jax.paths import is_local
from prompt_jax.run.step import TrainState
from prompt_jax.settings import at_least, settings

CHECKSUM = "checksum"


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
        counts = {"period": self.period, "keep": self.keep, "keep_period": self.keep_period}
        at_least("Checkpoints", 1, counts)


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    """Whether a line of absl's log is not Orbax's, which logs the traceback of each thread that a
    full disk ends, and raises the error as well."""
    return "orbax" not in Path(record.pathname).parts


class RunCheckpoints:
    """The checkpoints of one model_dir."""

    def __init__(self, model_dir: epath.Path, options: Checkpoints, facts: dict[str, Any]):
        logger = logging.getLogger("absl")
        logger.setLevel(logging.ERROR)
        logger.addFilter(_is_not_raised_too)
        self.facts = facts
        if is_local(model_dir):  # Orbax reads absolute paths alone
            model_dir = model_dir.expanduser().resolve()
        self.folder = model_dir / "checkpoints"
        self.manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "facts": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=options.keep,
                keep_period=options.keep_period,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
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
                facts=ocp.args.JsonSave({**self.facts, CHECKSUM: checksum(state)}),
            ),
        )
        self.manager.wait_until_finished()

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def restore(self, state: TrainState, same_run: bool = False) -> TrainState:
        """The latest checkpoint in the shapes, dtypes and shardings of `state`; else `state`.

        `same_run`: `identity.json` has said so, and the checkpoint's own facts need not.

        Raises:
          UserError: the checkpoint is of another run (seed, data, method, backbone, optimizer).
          RunError: it is damaged. An earlier one is never taken in its place unasked.
        """
        step = self.latest_step()
        if step is None:
            return state
        facts = self._read(step, "facts", ocp.args.JsonRestore())
        for name, value in () if same_run else self.facts.items():
            self._check_fact(name, facts.get(name), as_known(value, facts.get(name)))
        like = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in named_leaves(state).items()
        }
        like = as_saved(like, self._metadata(step))
        self._check_fact("arrays", self._saved_shapes(step), shapes(like))
        saved = self._read(step, "state", ocp.args.StandardRestore(like))
        restored = jax.tree.unflatten(jax.tree.structure(state), [saved[name] for name in like])
        if CHECKSUM in facts and facts[CHECKSUM] != checksum(restored):
            raise self._damaged(step, "its arrays are not those that were saved")
        return restored

    def steps(self) -> list[int]:
        """The steps whose checkpoints are kept, in order."""
        return sorted(self.manager.all_steps())

    def read_leaves(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of a kept step by their names, on this host; RunError if it is damaged."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
            for name, x in self._metadata(step).items()
        }
        saved = self._read(step, "state", ocp.args.StandardRestore(like))
        return {name: np.asarray(saved[name]) for name in like}

    def _check_fact(self, name: str, saved: Any, wanted: Any) -> None:
        if saved != wanted:
            old, new = difference(saved, wanted)
            raise UserError(
                f"model_dir {str(self.folder.parent)!r}",
                f"holds a run with {name} = {old}, this one has {new}",
                "use another --model_dir, or the first run's recipe",
            )

    def _read(self, step: int, item: str, args: Any) -> Any:
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # Orbax and TensorStore raise whatever they please
            raise self._damaged(step, f"{type(error).__name__}: {error}") from error

    def _saved_shapes(self, step: int) -> dict[str, str]:
        return shapes(self._metadata(step))

    def _metadata(self, step: int) -> Mapping[str, Any]:
        """Name to shape and dtype of what a checkpoint holds."""
        try:
            return dict(self.manager.item_metadata(step)["state"])
        except Exception as error:
            raise self._damaged(step, f"{type(error).__name__}: {error}") from error

    def _damaged(self, step: int, why: str) -> RunError:
        why = " ".join(why.split())[:120]
        return RunError(
            f"checkpoint {str(self.folder / str(step))!r} cannot be read ({why}): "
            "remove it to resume from the one before"
        )

    def close(self) -> None:
        self.manager.close()


def named_leaves(tree: Any) -> dict[str, jax.Array]:
    """The leaves of a pytree by their path, in its order: `trainable.prompt.encoder` and so on."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    assert len(set(names)) == len(names), names
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def as_saved(leaves: Mapping[str, Any], saved: Iterable[str]) -> dict[str, Any]:
    """The leaves, in their order, under the names that a checkpoint has for them: up to version 0.1
    `prompt.encoder_rows` was what is `prompt.encoder.rows` now."""
    names = {name.replace(".", "_"): name for name in saved}
    return {names.get(name.replace(".", "_"), name): leaf for name, leaf in leaves.items()}


def as_known(wanted: Any, saved: Any) -> Any:
    """A method's manifest without settings that a checkpoint of version 0.1 does not know."""
    if not (isinstance(wanted, dict) and isinstance(saved, dict) and "settings" in saved):
        return wanted
    known = {k: v for k, v in wanted.get("settings", {}).items() if k in saved["settings"]}
    return {**wanted, "settings": known}


def shapes(leaves: Mapping[str, Any]) -> dict[str, str]:
    """`{"trainable.prompt.encoder": "float32 [20, 64]", ...}`"""
    return {name: f"{x.dtype} {list(x.shape)}" for name, x in leaves.items()}


@jax.jit
def _bits(leaves: list[jax.Array]) -> jax.Array:
    words = [x.view(f"uint{8 * x.dtype.itemsize}") for x in leaves]
    return sum((jnp.sum(w, dtype=jnp.uint32) for w in words), start=jnp.uint32(0))


def checksum(tree: Any) -> int:
    """The bits of all leaves, added up as unsigned integers modulo 2**32: one flipped bit shows."""
    return int(_bits(jax.tree.leaves(tree)))


def difference(saved: Any, wanted: Any) -> tuple[str, str]:
    """Two values that differ, for a message; of two dicts only what differs first."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for name in [*wanted, *saved]:
            pair = [side.get(name, "nothing") for side in (saved, wanted)]
            if pair[0] != pair[1]:
                old, new = difference(*pair)
                return f"{name}: {old}", f"{name}: {new}"
    return repr(saved), repr(wanted)
