"""Which method when: what each trains, leaves, costs in a step, and scores on the boards.

    python benchmarks/methods.py [--rows=prompt,lora] [--rounds=8] [--draw]

Times a training step of every method of `boards_rows.py` on nano, as a share of the prompt's (16
rows of 40 and 8 columns and the method's own; words of an installed package). Steps are compiled
first; then the methods take turns, a step each, and the best of the rounds counts. What was
measured is kept in docs/methods.jsonl; the table at the top of docs/methods.md is drawn from it and
from docs/boards. `--draw` only draws. Five minutes on two CPU cores, most of it compilation.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from boards import OUTPUT as BOARDS
from boards import Cell, chosen
from boards_page import right_of
from boards_rows import COLUMNS, ROWS, Row
from etils import epath
from flax import nnx

from prompt_jax.errors import UserError
from prompt_jax.export import peft_write
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.recipe import config
from prompt_jax.run.job import Run

LINES, PAGE = Path("docs/methods.jsonl"), Path("docs/methods.md")
BEGIN, END = "<!-- which method when: begin -->\n", "<!-- which method when: end -->\n"
TASK = ("TASK='empath_topic'", "Data.split='train'")  # read from a package
TRAINED = [row for row in ROWS if row.kind in ("trained", "alone") and not row.random]


class Stepping:
    """A row's job, its state and a batch."""

    def __init__(self, row: Row, folder: str):
        bound = [*Cell(row, COLUMNS[0], Path(folder), None).bindings(), *TASK]
        run = config.load("Train", ["board.gin", row.recipe], bound).root
        run = dataclasses.replace(run, evaluation=None, best_metric=None)
        self.job = Run(run, epath.Path(folder))
        self.state, self.batch = self.job.first_state(), self.job.batch(0)[0]
        self.best = float("inf")
        self.step()

    def step(self) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self.state, _ = self.job.train_step(self.state, self.job.frozen, self.batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began

    def leaves(self) -> dict[str, Any]:
        """Bytes of what is saved, whether PEFT can hold it, and the encoder's columns it takes."""
        run = self.job.settings
        model: Any = nnx.merge(self.job.graphdef, self.state.trainable, self.job.frozen)
        if run.method.trains_model:
            size = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model.t5)))
            return {"artefact_bytes": size, "peft": None, "columns": 0}
        arrays = run.method.fold(model.prompt)
        prompt = Prompt(arrays, {**run.method.manifest(), **run.method.seen()}, "")
        return {
            "artefact_bytes": sum(x.nbytes for x in arrays.values()),
            "peft": peft_write.refusal(prompt) is None,
            "columns": run.method.layout.encoder,
        }


def measure(rows: Sequence[Row], rounds: int) -> list[dict[str, Any]]:
    """For each row its name, trained parameters, bytes of the optimizer's state, milliseconds of a
    step, those as a share of the first row's, and what it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Stepping(row, folder) for row in rows]
        for _ in range(rounds):
            for job in jobs:
                job.best = min(job.best, job.step())
    return [
        {
            "row": row.name,
            "trained": sum(x.size for x in jax.tree.leaves(job.state.trainable)),
            "optimizer_bytes": sum(x.nbytes for x in jax.tree.leaves(job.state.opt_state)),
            "ms": round(1e3 * job.best, 1),
            "share": round(job.best / jobs[0].best, 2),
            **job.leaves(),
        }
        for row, job in zip(rows, jobs, strict=True)
    ]


def boards(folder: str) -> dict[str, dict[str, float]]:
    """{column: {row: mean test score, in percent}} of the boards that have cells."""
    found = {}
    for column in COLUMNS:
        file = Path(folder, f"{column.name}.jsonl")
        lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
        found[column.name] = {line["row"]: 100 * right_of(line).mean() for line in lines}
    return {column: scores for column, scores in found.items() if scores}


def table(lines: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, float]]) -> str:
    """Rows in the boards' order; a score that is not there yet is a dash."""
    by_row = {line["row"]: line for line in lines}
    heads = ["method", "trains", "leaves", "a step", "encoder columns", "to PEFT", *scores]
    out = [" | ".join(["", *heads, ""]).strip(), "|" + "---|" * len(heads)]
    for row in ROWS:
        if row.name not in by_row:
            continue
        line = by_row[row.name]
        peft = {True: "yes", False: "no", None: "a model"}[line["peft"]]
        size = f"{line['artefact_bytes'] / 1e3:,.0f} kB"
        cells = [row.title, f"{line['trained']:,}", size, f"{line['share']:.2f}"]
        cells += [str(line["columns"]), peft]
        cells += [f"{s[row.name]:.1f}" if row.name in s else "-" for s in scores.values()]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def draw(lines: Sequence[Mapping[str, Any]], page: str, scores) -> str:
    """The page with its table anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise UserError(str(PAGE), "has no place for the table", f"give it {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{table(lines, scores)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", help="some of them, with commas")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parsed = parser.parse_args(arguments)
    try:
        if not parsed.draw:
            found = measure(chosen(TRAINED, parsed.rows, "rows"), max(parsed.rounds, 1))
            for line in found:
                print(json.dumps(line))
            if parsed.rows is None:
                LINES.write_text("".join(json.dumps(line) + "\n" for line in found))
        if parsed.rows is None:
            lines = [json.loads(line) for line in LINES.read_text().splitlines()]
            PAGE.write_text(draw(lines, PAGE.read_text(), boards(BOARDS)))
    except UserError as error:
        print(f"methods: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
