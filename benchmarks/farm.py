"""A farm of prompts against the same prompts trained one after another, as whole commands.

    python benchmarks/farm.py [--members=8] [--alone=8] [--rounds=3] [--steps=300] [--json]
                              [--gin.NAME=VALUE ...]

Each round runs `prompt-jax train` with FARM={'SEED': [0, 1, ...]}, and then the members' own
commands, all of them or the first `--alone`, whose mean then stands for every one. Times are of
whole processes, from start to exit, evaluations included. Beside the ratio of these it prints that
of the steady step (the median of `seconds_per_step`, times the members where they train alone) and
of the peak memory, against one run with as many rows a step. Ratios of times above 1 are the
farm's. The recipe is the quickstart with batches of 8. On a busy machine the ratio alone says
something.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

BATCH = 8


@dataclass(frozen=True)
class Ran:
    """One command: seconds from start to exit, its most memory in GiB, its median step."""

    seconds: float
    peak: float
    step: float


def ran(folder: Path, bindings: Sequence[str], records: Path) -> Ran:
    """Trains in a process of its own; `records`: the run's folder, below `folder`."""
    command = [sys.executable, "-m", "prompt_jax", "train", "--gin_file=runs/quickstart.gin"]
    command += [f"--gin.{binding}" for binding in bindings] + [f"--model_dir={folder}"]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}\n{said}")
    lines = (folder / records / "metrics.jsonl").read_text().splitlines()
    steps = [r["seconds_per_step"] for r in map(json.loads, lines) if r["kind"] == "train"]
    return Ran(seconds, usage.ru_maxrss / 2**20, median(steps))


def measured(
    members: int, alone: int, steps: int, extra: Sequence[str], folder: Path
) -> dict[str, float]:
    """One round."""
    common = [f"BATCH_SIZE={BATCH}", f"TRAIN_STEPS={steps}", *extra]
    grid = f"FARM={{'SEED': {list(range(members))}}}"
    at_once = f"Farm.at_once={members}"
    farm = ran(folder / "farm", [*common, grid, at_once], Path("members/SEED_0"))
    solo = [ran(folder / f"solo_{n}", [*common, f"SEED={n}"], Path()) for n in range(alone)]
    rows = [f"BATCH_SIZE={BATCH * members}", "TRAIN_STEPS=20", *extra]
    wide = ran(folder / "wide", rows, Path())
    one = mean(run.seconds for run in solo)
    return {
        "farm_seconds": farm.seconds,
        "alone_seconds": one * members,
        "ratio": one * members / farm.seconds,
        "farm_step": farm.step,
        "alone_step": mean(run.step for run in solo),
        "step_ratio": mean(run.step for run in solo) * members / farm.step,
        "farm_peak_gib": farm.peak,
        "wide_peak_gib": wide.peak,
        "memory_ratio": farm.peak / wide.peak,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--alone", type=int, help="commands of one member that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    given, rest = parser.parse_known_args(arguments)
    extra = [word.removeprefix("--gin.") for word in rest]
    rounds = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            alone = given.alone or given.members
            rounds.append(measured(given.members, alone, given.steps, extra, Path(folder)))
        print(json.dumps(rounds[-1]), flush=True)
    ratios = sorted(found["ratio"] for found in rounds)
    told = {"members": given.members, "ratio": median(ratios), "spread": [ratios[0], ratios[-1]]}
    for name in ("step_ratio", "memory_ratio"):
        told[name] = median(found[name] for found in rounds)
    print(json.dumps(told if not given.json else {**told, "rounds": rounds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
