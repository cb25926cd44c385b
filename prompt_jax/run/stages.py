"""A program of stages: ordinary runs of the trainer, each built from what those before it left.

A stage is a run and what is done when it has ended (`OnEnd`): such an operation may make files of
what the stage left, and changes the runs of the stages that follow, for example by what they start
from. Where files will lie is known beforehand (`stage_N/prompt/best`), so that all runs are built
and checked before the first one begins, and again in the same way when a program goes on.
"""

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath
from flax import nnx

from prompt_jax.backbone.load import read_config
from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.model.bundle import named
from prompt_jax.prompt.files import MANIFEST
from prompt_jax.run.folder import wait_for
from prompt_jax.run.settings import Train
from prompt_jax.run.train import train
from prompt_jax.settings import settings


@dataclass(frozen=True)
class Done:
    """A stage that has ended, or will have: its run, and the folder that it ran in."""

    run: Train
    folder: epath.Path

    @property
    def prompt(self) -> str:
        """The artefact that it leaves: the checkpoint that its metric chose, else the last."""
        return str(self.folder / "prompt" / ("last" if self.run.selection is None else "best"))

    def shapes(self) -> dict[str, jax.Array]:
        """The arrays of the prompt, by name, as shapes; of the backbone only its config is read.
        {} where the prompt begins with one that is not there yet."""
        config = self.run.backbone.configure(read_config(self.run.backbone.name))
        method, start = self.run.method, Shapes(config)
        try:
            return nnx.eval_shape(lambda: named(method.create(jax.random.key(0), start)()))
        except UserError:
            return {}


class OnEnd(abc.ABC):
    """What is done with a finished stage, in two halves.

    `run` makes files of what the stage left. `rewire` changes the runs of later stages by what
    these files are called, so that a whole program is built before its first stage has begun.
    """

    @abc.abstractmethod
    def files(self, done: Done) -> tuple[str, ...]:
        """Where `run` leaves its results; known before the stage has trained."""

    def check_shapes(self, done: Done, later: Sequence[Train]) -> None:  # noqa: B027 (most take any)
        """UserError for what does not fit the shapes of the prompt that the stage will leave, also
        in the later stages."""

    def run(self, done: Done) -> None:  # noqa: B027 (what a stage leaves may be all)
        """Makes the files, on all processes together; not called where they are there already."""

    @abc.abstractmethod
    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        """A later stage's run, which takes what is in the files."""


@settings
class FoldAndFreeze(OnEnd):
    """The stage's folded prompt stands before the text of later stages whose method puts saved
    prompts there (`PromptMethod.behind`), after those of the stages before it."""

    def files(self, done: Done) -> tuple[str, ...]:
        return (done.prompt,)

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        method = later.method.behind(files[0], done.run.method.layout)
        return dataclasses.replace(later, method=method)


@settings
class PassWeights(OnEnd):
    """Later stages start from the weights that this one ended with."""

    def files(self, done: Done) -> tuple[str, ...]:
        return (str(done.folder / "prompt" / "last"),)

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        backbone = dataclasses.replace(later.backbone, name=f"files:{files[0]}")
        return dataclasses.replace(later, backbone=backbone)


@settings
class PassPrompt(OnEnd):
    """Later stages begin with the prompt that this one leaves, if their method can
    (`PromptMethod.continued`): T-Few's scales of a mixture, SPoT's rows of a source, factors of
    LoRA.

    So PVP (Song et al. 2023, "pre-train the prompt module") begins a target of a few examples with
    a prompt that a mixture of other tasks has trained.
    """

    def files(self, done: Done) -> tuple[str, ...]:
        return (done.prompt,)

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        method = later.method.continued(files[0])
        if method is None:
            name = type(later.method).__name__
            problem = f"a later stage trains {name}, which does not begin with a saved prompt"
            remedy = "give later stages prompt tuning, (IA)3, LoRA or a prefix without an MLP"
            raise UserError("PassPrompt", problem, remedy)
        return dataclasses.replace(later, method=method)

    def check_shapes(self, done: Done, later: Sequence[Train]) -> None:
        left = _shapes_of(done)
        for run in later:
            own = (
                {} if run.method.layout.factors else _shapes_of(dataclasses.replace(done, run=run))
            )
            if left and own and left != own:
                name = next(n for n in {**own, **left} if own.get(n) != left.get(n))
                leaves, needs = (list(x[name]) if name in x else "none" for x in (left, own))
                problem = f"the stage leaves {name} {leaves}, a later one begins with {needs}"
                raise UserError("PassPrompt", problem, "give both stages the same method and sizes")


def _shapes_of(done: Done) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in done.shapes().items()}


@settings
class PassTeacher(OnEnd):
    """The stage's prompt is the teacher of later stages' terms that have one."""

    def files(self, done: Done) -> tuple[str, ...]:
        return (done.prompt,)

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        terms = tuple(term.taught_by(files[0]) for term in later.terms)
        return dataclasses.replace(later, terms=terms)


@settings
class Stage:
    """A run, and what is done with its results."""

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
        done = Done(runs[number], stage_folder(folder, number + 1))
        for operation in stage.on_end:
            files = operation.files(done)
            later = [operation.rewire(run, done, files) for run in runs[number + 1 :]]
            runs = [*runs[: number + 1], *later]
    for number, run in enumerate(runs, start=1):
        run.method.check_stage(f"stage {number}")
    return runs


def parts(root: Train | Stages) -> dict[str, int]:
    """The folders of a model_dir in which a recipe trains, in turn, and the steps of each."""
    if not isinstance(root, Stages):
        return {"": root.steps}
    return {f"stage_{n}": stage.run.steps for n, stage in enumerate(root.stages, start=1)}


def shaped(program: Stages) -> list[Train]:
    """The runs of all stages, for shapes alone: where a run begins from weights that an earlier
    stage will leave, it names those that the earlier stage begins from, of which it has no more."""
    runs, begun = resolved(program, epath.Path("D")), {}
    for number, run in enumerate(runs):
        name = begun.get(run.backbone.name, run.backbone.name)
        done = Done(run, stage_folder(epath.Path("D"), number + 1))
        left = [file for step in program.stages[number].on_end for file in step.files(done)]
        begun |= {f"files:{file}": name for file in left}
        runs[number] = dataclasses.replace(
            run, backbone=dataclasses.replace(run.backbone, name=name)
        )
    return runs


def check_shapes(program: Stages) -> None:
    """UserError for an operation that does not fit the prompt of its stage; no weight is read.

    A prompt that begins with one that an earlier stage is still to leave passes.
    """
    runs = shaped(program)
    for number, (stage, run) in enumerate(zip(program.stages, runs, strict=True), start=1):
        done = Done(run, stage_folder(epath.Path("D"), number))
        for operation in stage.on_end:
            operation.check_shapes(done, runs[number:])


def run_recipe(
    root: Train | Stages, model_dir: str, *, seeds: str | None = None, **options: Any
) -> dict[str, Any]:
    """Trains a recipe's root, whichever it is; options as of `train`.

    `seeds` are those of the command: a program has one.
    """
    if not isinstance(root, Stages):
        return train(root, model_dir, **options)
    refuse_seeds(seeds)
    return train_stages(root, model_dir, **options)


def refuse_seeds(seeds: str | None) -> None:
    """UserError where a command names seeds for a program of stages."""
    if seeds is not None:
        raise UserError(
            f"--seeds={seeds}", "a program of stages runs one seed", "give --gin.SEED=N"
        )


def train_stages(program: Stages, model_dir: str, **options: Any) -> dict[str, Any]:
    """Runs what is left of the stages, in `model_dir/stage_1` and so on; options as of `train`.

    Returns the last metrics of the last stage.
    """
    check_shapes(program)
    folder, metrics = epath.Path(model_dir), {}
    pairs = zip(program.stages, resolved(program, folder), strict=True)
    for number, (stage, run) in enumerate(pairs, start=1):
        done = Done(run, stage_folder(folder, number))
        metrics = train(run, str(done.folder), **options)
        wait_for(done.folder / "prompt" / "last" / MANIFEST)
        for operation in stage.on_end:
            finish(operation, done)
    return metrics


def finish(operation: OnEnd, done: Done) -> None:
    """Has an operation make what is not there yet; every process sees it afterwards."""
    manifests = [epath.Path(file) / MANIFEST for file in operation.files(done)]
    if not all(path.exists() for path in manifests):
        operation.run(done)
    for path in manifests:
        wait_for(path)
