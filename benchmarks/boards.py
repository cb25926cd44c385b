"""The boards: methods by tasks under one set of rules, a cell at a time.

    python benchmarks/boards.py [--columns=trec] [--rows=prompt,dept] [--data_dir=DIR]
        [--work=DIR] [--output=docs/boards] [--draw]

The rules, the same for every row: 16 examples an update, not packed; a rate of five, by a farm of
seed 0 with successive halving, on 300 rows of the training split that are kept out of it; the step
by the same rows; the two other seeds at that rate; the test split asked once, by what was chosen.
A cell is one line of OUTPUT/COLUMN.jsonl, with its commands; run again, what is there stays.
`boards_page.py` draws the pages.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import boards_page
from boards_rows import COLUMNS, RATES, ROWS, SEEDS, Column, Row

from prompt_jax.errors import UserError

OUTPUT = "docs/boards"
HALVE_AT = 2  # evaluations: high rates fall behind before
# What a recipe of stages takes over from board.gin.
OF_BOARD = (
    *("TARGET_LENGTH=8", "BATCH_SIZE=16", "TRAIN_STEPS=400", "EVAL_PERIOD=100"),
    *("CHECKPOINT_PERIOD=100", "Data.packed=False", "Evaluation.mode='rank'"),
    *("Schedule.decay='linear'", "Schedule.total_steps=%TRAIN_STEPS"),
)


class Failed(Exception):
    """A command that did not end well."""


class Cell:
    """A row and a column, in a folder of its own."""

    def __init__(self, row: Row, column: Column, work: Path, rate: float | None):
        self.row, self.column, self.rate = row, column, rate
        self.folder = work / column.name / row.name
        self.commands: list[str] = []

    @property
    def backbone(self) -> str:
        return "random:nano?seed=0" if self.row.random else "nano"

    def run(self, verb: str, *words: str) -> str:
        """What a command prints on standard output."""
        command = ["prompt-jax", verb, *words]
        self.commands.append(shlex.join(command).replace(str(self.folder), "D"))
        done = subprocess.run(
            [sys.executable, "-m", "prompt_jax", *command[1:]], capture_output=True, text=True
        )
        if done.returncode:
            raise Failed(f"{shlex.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
        return done.stdout

    def train(self, name: str, *bindings: str) -> Path:
        """Trains in the folder `name`, or on in it."""
        folder = self.folder / name
        recipe = [self.row.recipe] if self.row.kind == "staged" else ["board.gin", self.row.recipe]
        words = [f"--gin_file={file}" for file in recipe]
        words += [f"--gin.{word}" for word in [*self.bindings(), *bindings]]
        self.run("train", *words, f"--model_dir={folder}")
        return folder

    def bindings(self) -> list[str]:
        """What the cell changes in its recipe."""
        trained, chosen, _ = self.column.splits
        bound = [f"BACKBONE='{self.backbone}'", f"TASK='{self.column.task}'", "INPUT_LENGTH=40"]
        bound += [f"Data.split='{trained}'", f"Evaluation.split='{chosen}'"]
        staged = OF_BOARD if self.row.kind == "staged" else ()
        return [*bound, *staged, *self.column.bindings, *self.row.bindings]

    def fill(self) -> dict[str, Any]:
        """The line that is kept of it."""
        began = time.perf_counter()
        row = self.row
        if row.kind in ("trained", "alone"):
            found = self.swept()
        elif row.kind == "staged":
            found = self.staged()
        elif row.kind == "untrained":
            found = self.untrained()
        else:
            found = self.fixed()
        line = {"row": row.name, "column": self.column.name, **found}
        line["date"] = datetime.now().astimezone().isoformat(timespec="seconds")
        line["commit"] = commit()
        line["seconds"] = round(time.perf_counter() - began)
        line["commands"] = self.commands
        return line

    def swept(self) -> dict[str, Any]:
        """Rates on seed 0, then the other seeds at the best one, then the test split."""
        together = self.row.kind == "trained"
        name = "LEARNING_RATE"
        if together:
            period = next((b for b in self.column.bindings if b.startswith("EVAL_PERIOD=")), "=100")
            halve = HALVE_AT * int(period.partition("=")[2])
            grid = f"FARM={{'{name}': {list(RATES)}}}"
            sweep = self.train("sweep", grid, f"Farm.halve_at={halve}")
            members = [sweep / "members" / f"{name}_{rate}" for rate in RATES]
        else:
            members = [self.train(f"sweep_{rate}", f"{name}={rate}") for rate in RATES]
        scores = {rate: best(member) for rate, member in zip(RATES, members, strict=True)}
        rate = max(RATES, key=lambda rate: scores[rate])
        chosen = members[RATES.index(rate)]
        if together:
            grid = f"FARM={{'SEED': {list(SEEDS[1:])}}}"
            others = self.train("seeds", grid, f"{name}={rate}")
            runs = [chosen, *(others / "members" / f"SEED_{seed}" for seed in SEEDS[1:])]
        else:
            more = [self.train(f"seed_{n}", f"{name}={rate}", f"SEED={n}") for n in SEEDS[1:]]
            runs = [chosen, *more]
        return {
            "rate": rate,
            "rates": {str(rate): score for rate, score in scores.items()},
            "trained": self.parameters(),
            **self.scored(runs),
        }

    def parameters(self) -> int:
        """How many numbers the row trains."""
        from prompt_jax.fit.program import config_of
        from prompt_jax.recipe import config

        run = config.load("Train", ["board.gin", self.row.recipe], self.bindings()).root
        return run.method.count(config_of(run))

    def staged(self) -> dict[str, Any]:
        bound = () if self.rate is None else (f"LEARNING_RATE={self.rate}",)
        runs = [self.train(f"seed_{seed}", *bound, f"SEED={seed}") / "stage_2" for seed in SEEDS]
        return {"rate": self.rate, **self.scored(runs)}

    def scored(self, runs: Sequence[Path]) -> dict[str, Any]:
        """Curves and chosen values of the runs, and how they answer the test."""
        prompts = [run / "prompt" / "best" for run in runs]
        if self.row.kind == "alone":
            right = [self.answers((), f"orbax:{prompt}") for prompt in prompts]
        else:
            right = self.several(prompts)
        return {
            "curves": [curve(run) for run in runs],
            "chosen": [best(run) for run in runs],
            "right": right,
        }

    def several(self, prompts: Sequence[Path]) -> list[str]:
        rows = self.predictions([f"--prompt={prompt}" for prompt in prompts], self.backbone)
        by_prompt = {str(prompt): "" for prompt in prompts}
        for row in rows:
            if row["prompt"] in by_prompt:
                by_prompt[row["prompt"]] += verdict(row)
        return list(by_prompt.values())

    def answers(self, words: Sequence[str], backbone: str) -> str:
        return "".join(map(verdict, self.predictions(words, backbone)))

    def predictions(self, words: Sequence[str], backbone: str) -> list[dict[str, Any]]:
        file = self.folder / "predictions.jsonl"
        file.unlink(missing_ok=True)
        normalised = ["--length_normalised"] if self.row.name.startswith("t_few") else []
        self.run(
            "eval", f"--backbone={backbone}", *self.asked(file), "--mode=rank", *words, *normalised
        )
        return [json.loads(line) for line in file.read_text().splitlines()]

    def asked(self, file: Path) -> list[str]:
        """Words that `eval` and `untrained` share."""
        lengths = ["--input_length=40", "--target_length=8"]
        task = [f"--task={self.column.task}", f"--split={self.column.splits[2]}"]
        return [*task, *lengths, f"--predictions={file}"]

    def untrained(self) -> dict[str, Any]:
        """Heads are fitted to the rows that others are trained on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "predictions.jsonl"
        file.unlink(missing_ok=True)
        words = [f"--method={self.row.recipe}", "--backbone=nano", *self.asked(file)]
        if self.row.recipe != "zpe":
            trained, chosen, _ = self.column.splits
            words += [f"--fit_split={trained}", f"--dev_split={chosen}"]
            shots = "Data.examples_per_class="
            words += [f"--per_class={b[len(shots) :]}" for b in self.column.bindings if shots in b]
        self.run("untrained", *words, *self.row.bindings)
        lines = file.read_text().splitlines()
        return {"right": ["".join(verdict(json.loads(line)) for line in lines)]}

    def fixed(self) -> dict[str, Any]:
        """The bare backbone's answers, or those of words that are counted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.row.kind == "bare":
            return {"right": [self.answers((), "nano")]}
        return {"right": [self.counted()]}

    def counted(self) -> str:
        """Answers by the words of the rows that others are trained on."""
        from scoreboard_words import MOST, classifier

        from prompt_jax.cli.options import import_tasks
        from prompt_jax.data.split import Sampling, Split

        import_tasks(None)
        trained, _, scored = self.column.splits
        few = [int(b.partition("=")[2]) for b in self.column.bindings if "per_class" in b]
        sampling = Sampling(*few) if few else Sampling(max_examples=MOST)
        name, limits = self.column.task, (40, 8)
        known = Split(name, trained, limits, sampling).examples()[name]
        asked = Split(name, scored, limits).examples()[name]
        if self.row.kind == "majority":
            targets = [row["targets"] for row in known]
            common = max(sorted(set(targets)), key=targets.count)
            answers = [common] * len(asked)
        else:
            model = classifier(self.row.kind)
            model.fit([row["inputs"] for row in known], [row["targets"] for row in known])
            answers = model.predict([row["inputs"] for row in asked])
        return "".join(
            "1" if answer == row["targets"] else "0"
            for answer, row in zip(answers, asked, strict=True)
        )


def verdict(row: dict[str, Any]) -> str:
    """`1` for an answer that is the target, `0` for another."""
    return "1" if row["prediction"] == row["targets"] else "0"


def records(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "eval"]


def curve(run: Path) -> list[tuple[int, float]]:
    """[(step, accuracy on the rows that choose)] of a run."""
    return [(record["step"], round(record["accuracy"], 2)) for record in records(run)]


def best(run: Path) -> float:
    """The best of the curve; a run that was stopped has what it reached."""
    return max((value for _, value in curve(run)), default=0.0)


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Board:
    """The kept cells of a column, in a file that is written anew after each."""

    def __init__(self, output: str, column: Column):
        self.file = Path(output, f"{column.name}.jsonl")
        self.lines: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            lines = map(json.loads, self.file.read_text().splitlines())
            self.lines = {line["row"]: line for line in lines}

    def keep(self, line: dict[str, Any]) -> None:
        self.lines[line["row"]] = line
        here = [self.lines[row.name] for row in ROWS if row.name in self.lines]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in here))
        part.replace(self.file)


def chosen(known: Sequence[Any], names: str | None, what: str) -> list[Any]:
    """Those that are named, in the order in which they are; all where none is."""
    if names is None:
        return list(known)
    by_name = {entry.name: entry for entry in known}
    for name in names.split(","):
        if name not in by_name:
            raise UserError(f"--{what}={names}", f"no {name!r}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names.split(",")]


def fill(column: Column, rows: Sequence[Row], asked: argparse.Namespace) -> bool:
    """Runs what is missing of a column; whether all ended well."""
    board, well = Board(asked.output, column), True
    for row in rows:
        if row.name in board.lines or (row.columns and column.name not in row.columns):
            continue
        rate = board.lines.get(row.rate_of, {}).get("rate") if row.rate_of else None
        cell = Cell(row, column, Path(asked.work), rate)
        try:
            if row.rate_of and rate is None:
                raise Failed(f"{row.rate_of} has no rate yet")
            board.keep(cell.fill())
        except Failed as error:
            print(f"{column.name} {row.name}: {error}", file=sys.stderr, flush=True)
            well = False
            continue
        shutil.rmtree(cell.folder, ignore_errors=True)
        boards_page.draw(asked.output)
        print(boards_page.told(board.lines[row.name]), flush=True)
    return well


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where a cell failed; 2 for a wrong argument."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--columns", help="some of them, with commas")
    parser.add_argument("--rows", help="some of them, with commas")
    parser.add_argument("--data_dir", help="default: PROMPT_JAX_DATA_DIR")
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir(), "prompt_jax_boards")))
    parser.add_argument("--output", default=OUTPUT)
    parser.add_argument("--draw", action="store_true", help="run nothing")
    asked = parser.parse_args(arguments)
    if asked.data_dir:
        os.environ["PROMPT_JAX_DATA_DIR"] = asked.data_dir
    try:
        columns, rows = chosen(COLUMNS, asked.columns, "columns"), chosen(ROWS, asked.rows, "rows")
    except UserError as error:
        print(f"boards: error: {error}", file=sys.stderr)
        return 2
    well = asked.draw or all([fill(column, rows, asked) for column in columns])
    boards_page.draw(asked.output)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
