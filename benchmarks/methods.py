"""What a training step of each method costs on nano, as a share of the prompt's, in one run.

    python benchmarks/methods.py [--rows=prompt,lora] [--rounds=8] [--json]

The recipes of the scoreboard's rows on its column `empath` (16 rows of 64 and 32 columns, packed,
read from an installed package). Steps are compiled first; then the methods take turns, a step each,
and the best of the rounds counts. Two minutes on two CPU cores, most of it compilation.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import scoreboard
from etils import epath
from scoreboard_cells import COLUMNS, ROWS

from prompt_jax.errors import UserError
from prompt_jax.run.job import Run

COLUMN = next(column for column in COLUMNS if column.name == "empath")
TRAINED = [
    row
    for row in ROWS
    if row.kind == "trained" and not row.random and row.columns in ((), (COLUMN.name,))
]


class Stepping:
    """A row's job, its state and a batch."""

    def __init__(self, row: Any, folder: str):
        cell = scoreboard.Cell(row, COLUMN, 0)
        run = scoreboard.load(cell, scoreboard.bindings_of(cell, COLUMN.backbone, [])).root
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


def measure(rows: Sequence[Any], rounds: int) -> list[dict[str, Any]]:
    """For each row its name, trained parameters, bytes of the optimizer's state, milliseconds of a
    step, and those as a share of the first row's."""
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
        }
        for row, job in zip(rows, jobs, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="some of them, with commas")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args(arguments)
    try:
        found = measure(scoreboard.chosen(TRAINED, parsed.rows, "rows"), max(parsed.rounds, 1))
    except UserError as error:
        print(f"methods: error: {error}", file=sys.stderr)
        return 2
    if parsed.json:
        print(json.dumps(found))
        return 0
    print("| row | trained parameters | optimizer's state | a step | of the first |")
    print("|---|---|---|---|---|")
    for line in found:
        size = f"{line['optimizer_bytes'] / 1e3:,.0f} kB"
        told = f"{line['trained']:,} | {size} | {line['ms']:.0f} ms | {line['share']:.2f}"
        print(f"| {line['row']} | {told} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
