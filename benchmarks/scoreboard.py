"""The scoreboard: methods (rows) by tasks (columns) on the small backbones, a cell at a time.

    python benchmarks/scoreboard.py [--quick] [--data_dir=DIR] [--columns=trec,cola] [--rows=prompt]
        [--seeds=0,1] [--backbone=nano=files:DIR] [--gin=NAME=VALUE] [--output=docs/scoreboard]
        [--draw]

A finished cell is one line of OUTPUT.jsonl; OUTPUT.md is drawn from it after each. Run again, it
goes on with the cells that are missing, or whose backbone or recipe is another by now. `--quick`:
one seed and four tasks. `--draw` only draws. A new method is a recipe and a line of
`scoreboard_cells.ROWS`.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import scoreboard_table
from scoreboard_cells import (
    COLUMNS,
    MIXTURES,
    NO_LABELS,
    PROMPT,
    ROWS,
    SEEDS,
    Column,
    Row,
)
from scoreboard_words import counted

from prompt_jax.errors import RunError, UserError

OUTPUT = "docs/scoreboard"


@dataclass(frozen=True)
class Cell:
    row: Row
    column: Column
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.row.name, self.column.name, self.seed

    @property
    def backbone(self) -> str:
        """The backbone string; random weights are drawn anew for every seed."""
        if not self.row.random:
            return self.column.backbone
        return f"random:{self.column.backbone}?seed={self.seed}"

    def command(self, bindings: Sequence[str]) -> str:
        """What trains this cell by hand."""
        words = [f"--gin_file={self.row.recipe}", "--model_dir=D"]
        return shlex.join(["prompt-jax", "train", *words, *(f"--gin.{b}" for b in bindings)])


def bindings_of(cell: Cell, backbone: str, more: Sequence[str]) -> list[str]:
    """What a cell binds in its row's recipe."""
    column = cell.column
    bound = [f"BACKBONE={backbone}", f"TASK={column.task}", f"SEED={cell.seed}"]
    bound += [f"Data.split={column.splits[0]}", f"Evaluation.split={column.splits[1]}"]
    if column.scored is not None:
        bound.append(f"Evaluation.task={column.scored}")
    unlabelled = NO_LABELS if cell.row.recipe == PROMPT and not column.labels else ()
    return [*bound, *column.bindings, *unlabelled, *cell.row.bindings, *more]


def load(cell: Cell, bindings: Sequence[str]) -> Any:
    """The cell's recipe, built: a `Train`, and its text."""
    from prompt_jax.recipe import config

    return config.load("Train", [cell.row.recipe], bindings)


def trained(run: Any) -> dict[str, Any]:
    """Trains in a folder that is thrown away; the metrics of the last step, and what it took."""
    from prompt_jax.fit.program import config_of
    from prompt_jax.run.log import read_metrics
    from prompt_jax.run.train import train

    with tempfile.TemporaryDirectory() as folder:
        train(run.root, folder, operative=run.operative)
        records = read_metrics(folder)
        files = [path for path in Path(folder, "prompt", "last").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    steps, seconds = 0, 0.0
    for record in (r for r in records if r["kind"] == "train"):
        seconds += record["seconds_per_step"] * (record["step"] - steps)
        steps = record["step"]
    scored = [r for r in records if r["kind"] == "eval"][-1]
    metrics = {name: value for name, value in scored.items() if isinstance(value, float)}
    del metrics["seconds"]
    return {
        "metrics": metrics,
        "steps": steps,
        "training_seconds": round(seconds, 1),
        "trainable": run.root.method.count(config_of(run.root)),
        "artefact_bytes": size,
    }


def untrained(run: Any, kind: str) -> dict[str, Any]:
    """Metrics of the commonest answer (none if targets are no labels), of words counted, or of the
    bare backbone."""
    from prompt_jax.evaluate.prompts import model_of
    from prompt_jax.methods.base import FixedPrompt
    from prompt_jax.prompt.layout import PromptLayout

    train = run.root
    text = train.evaluation.read(train.data)
    mesh = train.mesh.build()
    backbone = train.backbone.load(mesh)
    scorer = text.open(backbone.vocabulary, PromptLayout(), train.seed, mesh)
    if kind == "bare":
        metrics = scorer(*model_of(backbone, FixedPrompt(), mesh))[0]
    elif kind == "majority":
        metrics = scorer.majority()
    else:
        metrics = counted(train, scorer, kind)
    return {"metrics": metrics, "steps": 0, "training_seconds": 0.0}


def finish(cell: Cell, run: Any, digest: str, recipe: str, command: str) -> dict[str, Any]:
    """Runs a cell; the line that is kept of it."""
    import jax

    import prompt_jax

    began = time.perf_counter()
    kind = cell.row.kind
    done = trained(run) if kind == "trained" else untrained(run, kind)
    jax.clear_caches()
    value = done["metrics"].get(cell.column.metric)
    row, column, seed = cell.key
    return {
        **{"row": row, "column": column, "seed": seed},
        **{"metric": cell.column.metric, "value": None if value is None else round(value, 2)},
        **done,
        "seconds": round(time.perf_counter() - began, 1),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {
            "prompt_jax": prompt_jax.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "backbone": run.root.backbone.name,
        "digest": digest,
        "recipe": recipe,
        "command": command,
    }


def fingerprint(run: Any, more: Sequence[str]) -> str:
    """Of the recipe's statements, bindings and what else makes a kept cell stale."""
    lines = [line for name in run.files for line in Path(name).read_text().splitlines()]
    said = [line for line in lines if line and not line.startswith("#")]
    return sha256("\n".join([*said, *more]).encode()).hexdigest()[:12]


class Board:
    """The kept cells, in a file that is written anew after each."""

    def __init__(self, output: str, backbones: dict[str, str], more: Sequence[str] = ()):
        self.lines_file, self.table_file = Path(f"{output}.jsonl"), Path(f"{output}.md")
        self.backbones = backbones  # another string for a column's backbone
        self.more = more  # bindings of every cell
        self.recipes: dict[tuple[str, str, int], str] = {}
        self.facts: dict[str, tuple[str, str]] = {}
        self.kept: dict[tuple[str, str, int], dict[str, Any]] = {}
        if self.lines_file.exists():
            for line in map(json.loads, self.lines_file.read_text().splitlines()):
                self.kept[line["row"], line["column"], line["seed"]] = line

    def digest(self, cell: Cell) -> str:
        """Of the backbone that a cell is about."""
        return self._facts(self.name(cell))[0]

    def vocabulary(self, cell: Cell) -> str:
        """Of the column's backbone, which its random weights take where it is another."""
        name = cell.column.backbone
        return self._facts(self.backbones.get(name, name))[1]

    def _facts(self, name: str) -> tuple[str, str]:
        """The digest of a backbone and its vocabulary, read once."""
        from prompt_jax.backbone.load import load_backbone

        if name not in self.facts:
            loaded = load_backbone(name, "float32")
            words = loaded.vocabulary
            self.facts[name] = loaded.digest, (words and words.path) or "bytes"
        return self.facts[name]

    def name(self, cell: Cell) -> str:
        return self.backbones.get(cell.backbone, cell.backbone)

    def bindings(self, cell: Cell) -> list[str]:
        bound = bindings_of(cell, self.name(cell), self.more)
        if cell.row.random and cell.column.backbone in self.backbones:
            bound.append(f"VOCABULARY={self.vocabulary(cell)}")
        return bound

    def recipe(self, cell: Cell) -> str:
        """The fingerprint of what makes a cell today."""
        if cell.key not in self.recipes:
            bindings = self.bindings(cell)
            told = [*bindings, cell.column.metric]
            self.recipes[cell.key] = fingerprint(load(cell, bindings), told)
        return self.recipes[cell.key]

    def fresh(self, cell: Cell) -> bool:
        """Whether a cell is kept, of today's backbone and recipe."""
        kept = self.kept.get(cell.key, {})
        now = (self.digest(cell), self.recipe(cell)) if kept else ()
        return bool(kept) and (kept["digest"], kept["recipe"]) == now

    def keep(self, line: dict[str, Any]) -> None:
        self.kept[line["row"], line["column"], line["seed"]] = line
        text = "".join(json.dumps(self.kept[key]) + "\n" for key in sorted(self.kept))
        self.lines_file.parent.mkdir(parents=True, exist_ok=True)
        part = self.lines_file.with_suffix(".part")
        part.write_text(text)
        part.replace(self.lines_file)

    def draw(self, command: str) -> None:
        """The table of all kept cells whose backbone is at hand, and it and the recipe today's."""
        columns = {column for _, column, _ in self.kept}
        known = with_backbone([column for column in COLUMNS if column.name in columns], self)
        cells = cells_of(ROWS, list(known), SEEDS)
        fresh = [self.kept[cell.key] for cell in cells if self.fresh(cell)]
        self.table_file.parent.mkdir(parents=True, exist_ok=True)
        self.table_file.write_text(scoreboard_table.draw(ROWS, COLUMNS, fresh, command))


def cells_of(rows: Sequence[Row], columns: Sequence[Column], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed and column by column, so that a board that is not finished can be read."""
    return [
        Cell(row, column, seed)
        for seed in seeds
        for column in columns
        for row in rows
        if seed in row.seeds and (not row.columns or column.name in row.columns)
    ]


def with_backbone(columns: Sequence[Column], board: Board) -> Iterator[Column]:
    """The columns whose backbone can be loaded; of each other one a line is printed."""
    for column in columns:
        try:
            board.digest(Cell(ROWS[0], column, SEEDS[0]))
        except UserError as error:
            if column.backbone in board.backbones:  # one that was asked for
                raise
            print(f"column {column.name} is left out: {error}", file=sys.stderr)
        else:
            yield column


def check_data(columns: Sequence[Column]) -> None:
    """Refuses a column whose data are not at hand, before anything is trained."""
    from prompt_jax.tasks.text import RowsSource, sub_tasks

    for column in columns:
        wanted = ((column.task, column.splits[0]), (column.scored or column.task, column.splits[1]))
        for name, split in wanted:
            for task in sub_tasks(name):
                source = task.source
                if isinstance(source, RowsSource) and source.where(split) is None:
                    raise UserError(
                        f"column {column.name}: no {split} of {task.name} is at hand ({source}); "
                        "give another --data_dir, or --columns without it"
                    )


def register_mixtures() -> None:
    """What is scored in several languages."""
    from prompt_jax.tasks.text import import_bundled

    import_bundled()
    import seqio

    for name in MIXTURES.keys() - seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, MIXTURES[name], default_rate=1.0)


def chosen(known: Sequence[Any], names: str | None, what: str) -> list[Any]:
    """Those of `known` that are named, in the order of the table."""
    wanted = {entry.name for entry in known} if names is None else set(names.split(","))
    if unknown := wanted - {entry.name for entry in known}:
        told = ", ".join(entry.name for entry in known)
        raise UserError(f"--{what}={names}: no {min(unknown)!r}; there are {told}")
    return [entry for entry in known if entry.name in wanted]


def own_output(output: str, usual: str, changes: Sequence[str]) -> None:
    """UserError where changed cells would replace those of the page that is committed."""
    if changes and Path(output).resolve() == Path(usual).resolve():
        raise UserError(f"{changes[0]} makes other cells than those of {usual}; give --output=FILE")


def parse_backbones(pairs: Sequence[str]) -> dict[str, str]:
    """{a column's backbone: what takes its place}, of NAME=STRING."""
    known = sorted({column.backbone for column in COLUMNS})
    for pair in pairs:
        name, equals, string = pair.partition("=")
        if name not in known or not equals or not string:
            raise UserError(f"--backbone={pair}: give NAME=STRING, NAME of {', '.join(known)}")
    return dict(pair.split("=", 1) for pair in pairs)


def fill(arguments: argparse.Namespace, command: str) -> None:
    """Runs what is missing."""
    from prompt_jax.cli.options import use_data_dir
    from prompt_jax.run.seeds import parse_seeds

    backbones = parse_backbones(arguments.backbone)
    own_output(arguments.output, OUTPUT, [*arguments.backbone, *arguments.gin])
    use_data_dir(arguments.data_dir)
    register_mixtures()
    columns = chosen(COLUMNS, arguments.columns, "columns")
    if arguments.quick:
        columns = [column for column in columns if column.quick]
    board = Board(arguments.output, backbones, arguments.gin)
    columns = list(with_backbone(columns, board))
    seeds = list(SEEDS[:1] if arguments.quick else SEEDS)
    if arguments.seeds is not None:
        seeds = parse_seeds(arguments.seeds)
    if unknown := set(seeds) - set(SEEDS):
        raise UserError(f"--seeds={arguments.seeds}: no {min(unknown)}; there are {SEEDS}")
    rows = chosen(ROWS, arguments.rows, "rows")
    if arguments.quick:
        rows = [row for row in rows if row.quick]
    cells = cells_of(rows, columns, seeds)
    if not arguments.draw:
        check_data(columns)
        for number, cell in enumerate(cells, start=1):
            run_one(board, cell, f"{number}/{len(cells)}")
            board.draw(command)
    board.draw(command)
    print(board.table_file)


def run_one(board: Board, cell: Cell, place: str) -> None:
    """Runs a cell unless it is kept and neither its backbone nor its recipe has changed."""
    told = f"{place} {cell.row.name} {cell.column.name} seed {cell.seed}"
    if board.fresh(cell):
        print(f"{told}: {board.kept[cell.key]['value']} is kept")
        return
    bindings = board.bindings(cell)
    run, command = load(cell, bindings), cell.command(bindings)
    line = finish(cell, run, board.digest(cell), board.recipe(cell), command)
    board.keep(line)
    print(f"{told}: {line['value']} ({line['seconds']} s)", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument, a missing set or backbone, 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, four tasks")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--data_dir", help="default: PROMPT_JAX_DATA_DIR")
    parser.add_argument("--columns", help="some of them, with commas")
    parser.add_argument("--rows", help="some of them, with commas")
    parser.add_argument("--seeds", help="some of them, with commas")
    parser.add_argument("--output", default=OUTPUT, help="without .jsonl and .md")
    parser.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="NAME=STRING",
        help="in place of a column's: nano=files:DIR",
    )
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more binding of every cell",
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_args(words)
    command = shlex.join(["python", "benchmarks/scoreboard.py", *words])
    return exit_code("scoreboard", partial(fill, parsed, command))


def exit_code(name: str, run: Callable[[], None]) -> int:
    """Runs a board with the compilations of boards before it; an error is one line."""
    # Cells of one shape differ in their data alone: what was compiled for one serves all.
    cache = Path(tempfile.gettempdir()) / f"prompt_jax_scoreboard_{os.getuid()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    try:
        run()
    except (UserError, RunError) as error:
        print(f"{name}: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
