"""What a training step costs on the whole backbone and on what SKIP has left of it, in turns.

    python benchmarks/skip.py --model_dir=D [--gin_file=runs/skip_nano.gin] [--rounds=20] [--json]

D is a finished run of a recipe with `PruneNeurons` between two stages. Both stages' steps are
compiled; then they take turns, a step each, on the same batch of text. The ratio is the median over
rounds of the whole step's time over the smaller one's: above 1, the smaller backbone is faster.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence

import jax
from etils import epath

from prompt_jax.bench.measure import compared, rates, report
from prompt_jax.errors import UserError
from prompt_jax.recipe import config
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import resolved


class Stepping:
    """A stage's compiled step, its state and a batch."""

    def __init__(self, run: Train, folder: epath.Path):
        self.job = Run(run, folder)
        self.state, self.batch = self.job.first_state(), self.job.batch(0)[0]

    def step(self) -> tuple[float, float]:
        """Seconds of one step, and that it was one."""
        began = time.perf_counter()
        self.state, _ = self.job.train_step(self.state, self.job.frozen, self.batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began, 1.0


def weights(job: Run) -> int:
    """How many parameters the frozen half has."""
    return sum(x.size for x in jax.tree.leaves(job.frozen))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--gin_file", default="runs/skip_nano.gin")
    parser.add_argument("--gin", action="append", default=[], help="NAME=VALUE, of that run")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args(arguments)
    try:
        program = config.load(("Stages",), [parsed.gin_file], parsed.gin).root
        folder = epath.Path(parsed.model_dir).expanduser().resolve()
        sides = [
            Stepping(run, folder / f"stage_{n}")
            for n, run in enumerate(resolved(program, folder), start=1)
        ]
        whole, left = sides[0], sides[-1]
        measured = rates({"left": left, "whole": whole}, max(parsed.rounds, 1))
    except UserError as error:
        print(f"skip: error: {error}", file=sys.stderr)
        return 2
    row = compared("a training step", measured["left"], measured["whole"], "steps/s")
    share = weights(left.job) / weights(whole.job)
    if parsed.json:
        print(json.dumps({**report("skip", [row]), "parameters_left": share}))
        return 0
    assert row.ratio is not None and row.spread is not None and row.theirs is not None
    low, high = row.spread
    print(f"parameters left: {100 * share:.0f} % of {weights(whole.job):,}")
    print(f"a step: {1e3 / row.theirs:.1f} ms whole, {1e3 / row.ours:.1f} ms of what is left")
    print(f"ratio: {row.ratio:.2f} ({low:.2f} to {high:.2f} over {parsed.rounds} rounds)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
