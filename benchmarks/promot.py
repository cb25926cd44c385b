"""ProMoT on the small backbone: what a target gains, and what other tasks lose, by fine-tuning.

    python benchmarks/promot.py [--data_dir=DIR] [--targets=empath_topic,trec] [--seeds=0,1,2]
        [--library=runs/promot] [--gin=NAME=VALUE] [--draw] [--output=docs/promot]

The same backbone is fine-tuned on a target plainly and behind a prompt that was tuned first
(Wang et al. 2024). Every PERIOD steps the target is scored as it was trained, and tasks that nano
does without a prompt are scored without one. A finished cell is one line of OUTPUT.jsonl, and
OUTPUT.md is drawn from it after each. Runs lie in the library: run again, it goes on with what is
missing or stale, within a run too.
"""

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import promot_table
import promot_tasks
import scoreboard
import spot

RECIPE, CONTROL = "runs/promot_nano.gin", "runs/promot_control_nano.gin"
PERIOD = 10  # steps between the scores of a fine-tuning
SHARED = (
    "BATCH_SIZE=32",
    "INPUT_LENGTH=16",
    "TARGET_LENGTH=8",
    "Data.packed=False",
    "TRAIN_STEPS=100",
    f"EVAL_PERIOD={PERIOD}",
)
GRADIENT_STEPS = (0, 10, 20, 50, 100, 200, 400)
PROMPT = ("prompt/Evaluation.period=100",)


@dataclass(frozen=True)
class Target:
    """A task that is fine-tuned; the best step is chosen on its `validation`, as in the paper."""

    name: str
    task: str
    bindings: tuple[str, ...] = ()

    @property
    def column(self) -> scoreboard.Column:
        return scoreboard.Column(self.name, self.task, "accuracy")


TARGETS = (
    Target("empath_topic", "empath_topic"),
    Target("trec", "spot_trec", ("INPUT_LENGTH=32", "Evaluation.max_examples=500")),
)
ROWS = {"prompt": RECIPE, "full": CONTROL, "promot": RECIPE}


@dataclass(frozen=True)
class WithUntouched:
    """A run's evaluation, and other tasks without its prompt: for `Train.evaluation`.

    Metrics are those of the target with the prompt, `without_prompt` where there is one, and
    `TASK/accuracy`.
    """

    target: Any
    tasks: str

    @property
    def period(self) -> int:
        return self.target.period

    @property
    def batch_size(self) -> int:
        return self.target.batch_size

    @property
    def answering(self) -> Any:
        return self.target.answering

    def read(self, data: Any) -> "TextWithUntouched":
        return TextWithUntouched(self.target.read(data), self.tasks)

    def scored(self, data: Any) -> dict[str, str]:
        return self.target.scored(data)


@dataclass(frozen=True)
class TextWithUntouched:
    """What `WithUntouched` has read."""

    target: Any
    tasks: str

    @property
    def examples(self) -> Any:
        return self.target.examples

    def digest(self) -> str:
        return self.target.digest()

    def shortfalls(self) -> list[str]:
        return self.target.shortfalls()

    def open(self, vocabulary: Any, layout: Any, seed: int, mesh: Any) -> "ScorerWithUntouched":
        from prompt_jax.prompt.layout import PromptLayout

        return ScorerWithUntouched(
            self.target.open(vocabulary, layout, seed, mesh),
            self.target.open(vocabulary, PromptLayout(), seed, mesh) if layout.encoder else None,
            untouched_scorer(self.tasks, vocabulary, mesh),
        )


@dataclass(frozen=True)
class ScorerWithUntouched:
    """The target with the prompt, without it where there is one, and other tasks without it."""

    target: Any
    bare: Any
    others: Any

    def __call__(self, graphdef: Any, trainable: Any, frozen: Any, between=lambda: None) -> tuple:
        model = without_prompt(graphdef, trainable, frozen)
        metrics, rows = self.target(graphdef, trainable, frozen, between)
        metrics = dict(metrics)
        if self.bare is not None:
            metrics["without_prompt"] = self.bare(*model, between)[0]["accuracy"]
        untouched = self.others(*model, between)[0]
        return metrics | {n: x for n, x in untouched.items() if "/accuracy" in n}, rows

    def majority(self) -> dict[str, float]:
        return self.target.majority()


def untouched_scorer(tasks: str, vocabulary: Any, mesh: Any) -> Any:
    """What scores a mixture's `test` without a prompt."""
    from prompt_jax.data.split import Split
    from prompt_jax.evaluate.evaluation import Evaluation
    from prompt_jax.prompt.layout import PromptLayout

    split = Split(tasks, "test", (128, 16))
    return Evaluation(split).read().open(vocabulary, PromptLayout(), 0, mesh)


def without_prompt(graphdef: Any, trainable: Any, frozen: Any) -> tuple:
    """The same T5 with no prompt before it."""
    from flax import nnx

    from prompt_jax.methods.base import FixedPrompt, PromptedT5

    model = nnx.merge(graphdef, trainable, frozen)
    graph, params = nnx.split(PromptedT5(model.t5, FixedPrompt()))
    return graph, nnx.State({}), params


class Program:
    """The run of a target, or its runs in turn, in a folder of the library."""

    def __init__(self, name: str, target: Target, seed: int, kept: spot.Bench):
        from etils import epath

        from prompt_jax.recipe import config
        from prompt_jax.run.stages import resolved

        bindings = [f"TASK={target.task}", f"SEED={seed}", *SHARED, *target.bindings]
        bindings += [*(PROMPT if name == RECIPE else ()), *kept.more]
        built = config.load(("Stages", "Train"), [name], bindings)
        self.operative, self.fingerprint = built.operative, fingerprint(built, bindings)
        self.folder = epath.Path(kept.library / f"{Path(name).stem}_{self.fingerprint}")
        self.runs = resolved(built.root, self.folder) if name == RECIPE else [built.root]
        words = [f"--gin.{binding}" for binding in bindings]
        words = ["prompt-jax", "train", f"--gin_file={name}", "--model_dir=D", *words]
        self.command = shlex.join(words)

    def train(self, stages: int | None) -> Any:
        """Trains the first so many of the runs, or all; the folder of the last one."""

        from prompt_jax.run.stages import stage_folder
        from prompt_jax.run.train import train

        place = self.folder
        for number, run in enumerate(self.runs[:stages], start=1):
            place = stage_folder(self.folder, number)
            if run.method.trains_model:
                evaluation = WithUntouched(run.evaluation, promot_tasks.MIXTURE)
                run = dataclasses.replace(run, evaluation=evaluation)
            train(run, str(place), operative=self.operative)
        return place


class Bench:
    """What runs a cell, and keeps it as `spot.py` does."""

    def __init__(self, output: str, library: str, more: Sequence[str]):
        self.kept = spot.Bench(output, library, more, CONTROL)

    def cell(self, row: str, target: Target, seed: int) -> None:
        """Trains a row's run, unless its line is kept."""
        program, key = Program(ROWS[row], target, seed, self.kept), (row, target.name, seed)
        if self.kept.fresh(key, program.fingerprint):
            return
        began = time.perf_counter()
        marks = marks_of(str(program.train(stages=1 if row == "prompt" else None)))
        told = {"marks": marks, "command": program.command}
        self.kept.keep(key, marks[-1]["accuracy"], program.fingerprint, began, told)

    def gradient(self, row: str, target: Target, seed: int) -> None:
        """The cosine of a fine-tuning's gradient and its format gradient, as it trains anew."""
        from prompt_jax.inspect.format_gradient import measure

        program = Program(ROWS[row], target, seed, self.kept)
        key = (f"{row}_gradient", target.name, seed)
        recipe = f"{program.fingerprint} {GRADIENT_STEPS}"
        if self.kept.fresh(key, recipe):
            return
        began = time.perf_counter()
        program.train(stages=len(program.runs) - 1)
        found = measure(program.runs[-1], str(program.folder), GRADIENT_STEPS, show=lambda _: None)
        self.kept.keep(key, mean(found[-1]["cosines"]), recipe, began, {"gradients": found})

    def backbone(self) -> None:
        """Scores the untouched tasks before any training."""
        from prompt_jax.evaluate.prompts import model_of
        from prompt_jax.methods.base import FixedPrompt
        from prompt_jax.model.sharding import MeshShape

        bindings = [*SHARED, *self.kept.more]
        run, mesh = self.kept.load(bindings), MeshShape().build()
        key, recipe = ("backbone", "untouched", 0), fingerprint(run, bindings)
        if self.kept.fresh(key, recipe):
            return
        began, backbone = time.perf_counter(), run.root.backbone.load(mesh)
        scorer = untouched_scorer(promot_tasks.MIXTURE, backbone.vocabulary, mesh)
        metrics = scorer(*model_of(backbone, FixedPrompt(), mesh))[0]
        chances = {task.name: promot_tasks.chance(task.examples) for task in scorer.tasks}
        mark = {"step": 0, **{n: round(x, 2) for n, x in metrics.items() if "/accuracy" in n}}
        told = {"marks": [mark], "chance": chances}
        told["examples"] = {task.name: len(task.examples) for task in scorer.tasks}
        self.kept.keep(key, metrics["accuracy"], recipe, began, told)

    def draw(self, command: str) -> None:
        """The page, of the cells that are about this backbone."""
        board = self.kept.board
        lines = [line for line in board.kept.values() if line["digest"] == self.kept.digest]
        page = promot_table.draw(TARGETS, promot_tasks.UNTOUCHED, lines, command)
        board.table_file.write_text(page)


def fingerprint(run: Any, bindings: Sequence[str]) -> str:
    """Of the recipe, what a cell binds in it, and what is scored."""
    scored = [f"{task.name} {promot_tasks.ROWS}" for task in promot_tasks.UNTOUCHED]
    return scoreboard.fingerprint(run, [*bindings, *scored, TARGETS[0].column.metric])


def marks_of(folder: str) -> list[dict[str, float]]:
    """{"step": ..., METRIC: percent} of every evaluation of a run."""
    from prompt_jax.run.log import read_metrics

    records = [record for record in read_metrics(folder) if record["kind"] == "eval"]
    names = ("accuracy", "not_a_label", "without_prompt")
    return [
        {"step": record["step"]}
        | {n: round(x, 2) for n, x in record.items() if n in names or n.endswith("/accuracy")}
        for record in records
    ]


def fill(arguments: argparse.Namespace, command: str) -> None:
    """Runs what is missing, seed by seed and target by target."""
    from prompt_jax.cli.options import use_data_dir
    from prompt_jax.run.seeds import parse_seeds

    use_data_dir(arguments.data_dir)
    targets = scoreboard.chosen(TARGETS, arguments.targets, "targets")
    seeds = parse_seeds(arguments.seeds)
    scoreboard.own_output(arguments.output, "docs/promot", arguments.gin)
    bench = Bench(arguments.output, arguments.library, arguments.gin)
    spot.register_tasks()
    promot_tasks.register()
    if not arguments.draw:
        scoreboard.check_data([target.column for target in targets])
        bench.backbone()
        for seed in seeds:
            for target in targets:
                for row in ROWS:
                    bench.cell(row, target, seed)
                    bench.draw(command)
                for row in ("full", "promot"):
                    bench.gradient(row, target, seed)
                    bench.draw(command)
    bench.draw(command)
    print(bench.kept.board.table_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument or a missing set, 1 where a run failed."""
    parsed, command = spot.command_line("promot", __doc__, "runs/promot", arguments)
    return scoreboard.exit_code("promot", partial(fill, parsed, command))


if __name__ == "__main__":
    sys.exit(main())
