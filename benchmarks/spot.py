"""SPoT on the small backbone: sources by small targets, transfer beside the vocabulary's init.

    python benchmarks/spot.py [--data_dir=DIR] [--targets=sst2,trec] [--seeds=0,1,2] [--draw]
        [--library=runs/spot_library] [--gin=NAME=VALUE] [--output=docs/spot]

Every target of EXAMPLES rows is trained from the recipe's own init (`vocabulary`) and from each
source, which is trained once and kept in the library. A finished cell is one line of OUTPUT.jsonl;
OUTPUT.md and two pictures are drawn from it after each. Run again, it goes on with what is missing
or stale. Sources have seed 0; what a target is scored on never chooses a checkpoint.
"""

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import scoreboard
import spot_table

RECIPE = "runs/spot_nano.gin"
EXAMPLES = 500  # of a target
EARLY = 50  # step of the embeddings
VOCABULARY = "vocabulary"
SOURCE = ("TRAIN_STEPS=600", "EVAL_PERIOD=200", "Evaluation.max_examples=300")
TARGET = (
    "BATCH_SIZE=8",
    "TRAIN_STEPS=200",
    "EVAL_PERIOD=200",
    "BEST_METRIC=None",
    "Evaluation.max_examples=500",
    f"Data.sampled_examples={EXAMPLES}",
)
MATTHEWS = "BEST_METRIC=('matthews_corrcoef','max')"


@dataclass(frozen=True)
class Task:
    """A task as a source, as a target, or as both.

    Attributes:
      scored: the split that a target is scored on; None: it is a source alone.
      related: the sources that should help, written down before anything was run.
      unrelated: those that should not.
    """

    name: str
    task: str
    bindings: tuple[str, ...] = ()
    scored: str | None = None
    related: tuple[str, ...] = ()
    unrelated: tuple[str, ...] = ()


FAR = ("cldr_language",)  # the language of a name says nothing of English sentences
TASKS = (
    Task("mr", "spot_mr"),
    Task("sst2", "glue_sst2", ("Data.sampled_examples=8000",), "validation", ("mr",), FAR),
    Task("trec", "spot_trec", (), "test", (), FAR),
    Task("ag_news", "ag_news", (), "test", ("empath_topic",), FAR),
    Task("empath_topic", "empath_topic"),
    Task("cola", "glue_cola", (MATTHEWS,)),
    Task("cldr_language", "cldr_language"),
)
TARGETS = tuple(task for task in TASKS if task.scored)


def register_tasks() -> None:
    """TREC and MR with splits that a source may be trained and chosen on."""
    from prompt_jax.tasks import text
    from prompt_jax.tasks.classification import MR, TREC_CHOICES

    text.import_bundled()
    if "spot_mr" not in text.CHOICES:
        _register("spot_trec", "trec", trec_rows, ("train", "validation", "test"), TREC_CHOICES)
        _register("spot_mr", "mr", mr_rows, ("train", "validation"), MR.choices)


def _register(name: str, task: str, read, splits: tuple[str, ...], choices) -> None:
    """A task over the rows of another's files."""
    from prompt_jax.metrics.text import accuracy
    from prompt_jax.tasks import text

    whole = text.get_task(task).source
    at = {split: "test" if split == "test" else "train" for split in splits}
    source = text.RowsSource(
        read, splits, f"{task}, other splits", where=lambda split: whole.where(at[split])
    )
    text.add_task(name, source, [], [accuracy], choices)


def _rows_of(task: str, split: str) -> list[dict]:
    from prompt_jax.tasks import text

    rows = text.load_examples(task, split)[task]
    return [{key: row[key] for key in ("inputs", "targets")} for row in rows]


def trec_rows(split: str) -> list[dict]:
    """A tenth of the training questions is validation, since TREC has none."""
    from prompt_jax.tasks import text

    if split == "test":
        return _rows_of("trec", "test")
    train, validation = text.hold_out(_rows_of("trec", "train"), "trec")
    return train if split == "train" else validation


def mr_rows(split: str) -> list[dict]:
    """MR without what SST-2 is scored on: both are of the same reviews, some cut or respelt.

    A sentence is left out if its first or its last 20 letters are those of a scored one. Its files
    hold a class each, so that the rows are put in the order of their hashes.
    """

    def ends(row: dict) -> set[str]:
        letters = re.sub(r"\W", "", row["inputs"].partition("sentence:")[2].lower())
        return {letters[:20], letters[-20:]}

    scored = set().union(*(ends(row) for row in _rows_of("glue_sst2", "validation")))
    rows = [row for row in _rows_of("mr", split) if not ends(row) & scored]
    return sorted(rows, key=lambda row: sha256(row["inputs"].encode()).digest())


class Bench:
    """The kept cells, the library, and what runs a cell."""

    def __init__(self, output: str, library: str, more: Sequence[str], recipe: str = RECIPE):
        from prompt_jax.backbone.load import load_backbone

        self.board = scoreboard.Board(output, {})
        self.library, self.more, self.recipe = Path(library), list(more), recipe
        self.digest = load_backbone(self.load(self.more).root.backbone.name, "float32").digest

    def load(self, bindings: Sequence[str]) -> Any:
        from prompt_jax.recipe import config

        return config.load("Train", [self.recipe], bindings)

    def fresh(self, key: tuple[str, str, int], recipe: str) -> dict[str, Any] | None:
        """The kept line of a cell, if it is about this backbone and these settings."""
        line = self.board.kept.get(key)
        same = line and (line["digest"], line["recipe"]) == (self.digest, recipe)
        return line if same else None

    def source(self, task: Task) -> None:
        """Trains a source into the library, unless it is there."""
        from prompt_jax.prompt.library import Library
        from prompt_jax.run.train import train
        from prompt_jax.transfer.embed import take

        bindings = [f"TASK={task.task}", "SEED=0", *SOURCE, *task.bindings, *self.more]
        run = self.load(bindings)
        key, recipe = ("source", task.name, 0), scoreboard.fingerprint(run, bindings)
        if self.fresh(key, recipe) and (self.library / task.name / "entry.json").exists():
            return
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            train(run.root, folder, operative=run.operative)
            entry = take(Library(str(self.library)), folder, task.name, EARLY)
        done = {"score": entry.facts["score"], "best_step": entry.facts["best_step"]}
        (value,) = entry.facts["score"].values()
        told = {**done, "sha256": entry.facts["sha256"]}
        self.keep(key, value, recipe, began, told)

    def target(self, task: Task, init: str, seed: int) -> None:
        """Trains a target from one init; seed 0 of the vocabulary's leaves its embedding."""
        from prompt_jax.run.train import train
        from prompt_jax.transfer.embed import early_arrays

        bindings = [f"TASK={task.task}", f"SEED={seed}", *TARGET]
        bindings += [f"Evaluation.split={task.scored}", *self.more]
        used, begin = "", []  # the source's prompt, wherever the library lies
        if init != VOCABULARY:
            path = self.library / init
            begin = ["SoftPrompt.init=@FileInit()", f"FileInit.path={str(path)!r}"]
            used = json.loads((path / "entry.json").read_text())["sha256"]["prompt"]
        run = self.load([*bindings, *begin])
        key, recipe = (init, task.name, seed), scoreboard.fingerprint(run, [*bindings, used])
        self.library.mkdir(parents=True, exist_ok=True)
        place = self.library / f"target_{task.name}.npy"
        embeds = init == VOCABULARY and seed == 0
        if self.fresh(key, recipe) and (place.exists() or not embeds):
            return
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            train(run.root, folder, operative=run.operative)
            scores = scores_of(folder)
            if embeds:
                np.save(place, early_arrays(run.root, folder, EARLY)[0]["encoder"])
        words = [f"--gin.{binding}" for binding in [*bindings, *begin]]
        command = shlex.join(
            ["prompt-jax", "train", f"--gin_file={RECIPE}", "--model_dir=D", *words]
        )
        more = {"before": scores[0], "command": command} | self.similarity(task, init)
        self.keep(key, scores[-1], recipe, began, more)

    def similarity(self, task: Task, init: str) -> dict[str, Any]:
        """Both similarities of a source and the target's embedding."""
        if init == VOCABULARY:
            return {}
        from prompt_jax.prompt.library import Library
        from prompt_jax.transfer.similarity import similarity_of

        target = np.load(self.library / f"target_{task.name}.npy")
        source = Library(str(self.library)).read(init).embedding().array
        return {"similarity": similarity_of(target, source)}

    def keep(
        self, key: tuple[str, str, int], value: float, recipe: str, began: float, more: dict
    ) -> None:
        from prompt_jax.version import __version__

        row, column, seed = key
        line = {"row": row, "column": column, "seed": seed, "value": round(value, 2), **more}
        line |= {
            "seconds": round(time.perf_counter() - began, 1),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "prompt_jax": __version__,
            "digest": self.digest,
            "recipe": recipe,
        }
        self.board.keep(line)
        print(f"{column} from {row}, seed {seed}: {value:.2f} ({line['seconds']} s)", flush=True)

    def draw(self, command: str) -> None:
        """The page and its pictures, of the cells that are about this backbone."""
        lines = [line for line in self.board.kept.values() if line["digest"] == self.digest]
        spot_table.draw(TASKS, TARGETS, lines, command, self.board.table_file)


def scores_of(folder: str) -> list[float]:
    """Accuracy of every evaluation of a run."""
    from prompt_jax.run.log import read_metrics

    return [record["accuracy"] for record in read_metrics(folder) if record["kind"] == "eval"]


def fill(arguments: argparse.Namespace, command: str) -> None:
    """Runs what is missing, seed by seed and target by target; a source before its first use."""
    from prompt_jax.cli.options import use_data_dir
    from prompt_jax.run.seeds import parse_seeds

    use_data_dir(arguments.data_dir)
    targets = scoreboard.chosen(TARGETS, arguments.targets, "targets")
    seeds = parse_seeds(arguments.seeds)
    scoreboard.own_output(arguments.output, "docs/spot", arguments.gin)
    bench = Bench(arguments.output, arguments.library, arguments.gin)
    register_tasks()
    if not arguments.draw:
        check_data(TASKS)
        for seed in seeds:
            for task in targets:
                bench.target(task, VOCABULARY, seed)
                for source in in_order(task):
                    bench.source(source)
                    bench.target(task, source.name, seed)
                    bench.draw(command)
    bench.draw(command)
    print(bench.board.table_file)


def in_order(target: Task) -> list[Task]:
    """The sources of a target: first those of which something is expected."""
    told = [*target.related, *target.unrelated]
    sources = [task for task in TASKS if task.name != target.name]
    return sorted(sources, key=lambda s: told.index(s.name) if s.name in told else len(told))


def check_data(tasks: Sequence[Task]) -> None:
    """Refuses a task whose data are not at hand, before anything is trained."""
    scoreboard.check_data(
        [
            scoreboard.Column(t.name, t.task, "accuracy", ("train", t.scored or "validation"))
            for t in tasks
        ]
    )


def command_line(name: str, doc: str, library: str, given: Sequence[str] | None) -> tuple:
    """The parsed arguments of a board that keeps its runs, and the command that they are of."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data_dir", help="default: PROMPT_JAX_DATA_DIR")
    parser.add_argument("--targets", help="some of them, with commas")
    parser.add_argument("--seeds", default="0,1,2", help="of the targets")
    parser.add_argument("--library", default=library, help="of the runs")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--output", default=f"docs/{name}", help="without .jsonl and .md")
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more binding of every cell",
    )
    words = list(sys.argv[1:] if given is None else given)
    return parser.parse_args(words), shlex.join(["python", f"benchmarks/{name}.py", *words])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument or a missing set, 1 where a run failed."""
    parsed, command = command_line("spot", __doc__, "runs/spot_library", arguments)
    return scoreboard.exit_code("spot", partial(fill, parsed, command))


if __name__ == "__main__":
    sys.exit(main())
