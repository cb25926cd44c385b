"""A program of stages: ordinary runs of the trainer, each built from what those before it left.

A stage is a run and what is done when it has ended (`OnEnd`): such an operation changes the runs of
the stages that follow, for example by what they start from. Where a stage leaves its results is
known beforehand (`stage_N/prompt/best`), so that all runs are built and checked before the first
one begins, and again in the same way when a program goes on after a stop.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.frozen import FrozenPrompts
from prompt_jax.run.folder import wait_for
from prompt_jax.run.settings import Train
from prompt_jax.run.train import train
from prompt_jax.settings import settings


class OnEnd(abc.ABC):
    """What is done with a finished stage."""

    @abc.abstractmethod
    def __call__(self, folder: epath.Path, done: Train, later: Train) -> Train:
        """A later stage's run, given the folder in which `done` ran."""


def artefact(folder: epath.Path, done: Train) -> str:
    """What a stage leaves: the checkpoint that its metric chose, else the last."""
    return str(folder / "prompt" / ("last" if done.selection is None else "best"))


@settings
class FoldAndFreeze(OnEnd):
    """The stage's folded prompt stands before later stages' `FrozenPrompts`, after those of the
    stages before it."""

    def __call__(self, folder: epath.Path, done: Train, later: Train) -> Train:
        method = later.method
        if not isinstance(method, FrozenPrompts):
            return later
        method = dataclasses.replace(
            method, prompts=(*method.prompts, artefact(folder, done)), rows=done.method.layout
        )
        return dataclasses.replace(later, method=method)


@settings
class PassWeights(OnEnd):
    """Later stages start from the weights that this one ended with."""

    def __call__(self, folder: epath.Path, done: Train, later: Train) -> Train:
        name = f"files:{folder / 'prompt' / 'last'}"
        return dataclasses.replace(later, backbone=dataclasses.replace(later.backbone, name=name))


@settings
class Stage:
    """A run, and what is done with what it leaves."""

    run: Train
    on_end: tuple[OnEnd, ...] = ()


@settings
class Stages:
    """A program: what `train --gin_file` builds where a recipe binds `Stages.stages`."""

    stages: tuple[Stage, ...]

    def check(self):
        if not self.stages:
            raise UserError(Setting("Stages", "stages", ()), remedy="give at least one Stage")
        resolved(self, epath.Path("D"))

    @property
    def selection(self) -> dict[str, str] | None:
        """What chooses the last stage's checkpoint."""
        return self.stages[-1].run.selection


def stage_folder(folder: epath.Path, number: int) -> epath.Path:
    return folder / f"stage_{number}"


def resolved(program: Stages, folder: epath.Path) -> list[Train]:
    """The runs of all stages, each changed as the stages before it say."""
    runs = [stage.run for stage in program.stages]
    for number, stage in enumerate(program.stages):
        for operation in stage.on_end:
            place, done = stage_folder(folder, number + 1), runs[number]
            later = [operation(place, done, run) for run in runs[number + 1 :]]
            runs = [*runs[: number + 1], *later]
    for number, run in enumerate(runs, start=1):
        if isinstance(run.method, FrozenPrompts) and not run.method.prompts:
            raise UserError(
                f"stage {number}",
                "has no prompt",
                (
                    "give @FoldAndFreeze() to Stage.on_end of the stage that tunes it, or "
                    "bind FrozenPrompts.prompts"
                ),
            )
    return runs


def run_recipe(
    root: Train | Stages, model_dir: str, *, seeds: str | None = None, **options: Any
) -> dict[str, Any]:
    """Trains a recipe's root, whichever it is; options as of `train`.

    `seeds` are those of the command: a program has one.
    """
    if not isinstance(root, Stages):
        return train(root, model_dir, **options)
    if seeds is not None:
        raise UserError(
            f"--seeds={seeds}", "a program of stages runs one seed", "give --gin.SEED=N"
        )
    return train_stages(root, model_dir, **options)


def train_stages(program: Stages, model_dir: str, **options: Any) -> dict[str, Any]:
    """Runs what is left of the stages, in `model_dir/stage_1` and so on; options as of `train`.

    Returns the last metrics of the last stage.
    """
    folder = epath.Path(model_dir)
    return run_in_turn(resolved(program, folder), folder, **options)


def run_in_turn(runs: Sequence[Train], folder: epath.Path, **options: Any) -> dict[str, Any]:
    """Trains runs that are `resolved`, one after the other."""
    metrics: dict[str, Any] = {}
    for number, run in enumerate(runs, start=1):
        place = stage_folder(folder, number)
        metrics = train(run, str(place), **options)
        wait_for(place / "prompt" / "last" / "manifest.json")
    return metrics
