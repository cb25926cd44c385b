"""Kills a run again and again, and shows that it ends in the bytes of a run left in peace.

  python tests/kill_loop.py --gin_file=runs/quickstart.gin --kills=10 [--gin.NAME=VALUE ...]

Prints one line per kill and the verdict; exit code 1 when the prompts differ.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPTS = ("prompt/last/prompt.safetensors", "prompt/best/prompt.safetensors")


def start(arguments: list[str], model_dir: Path) -> subprocess.Popen:
    program = [sys.executable, "-m", "prompt_jax.cli", "train", *arguments]
    log = open(model_dir.with_suffix(".log"), "ab")  # noqa: SIM115 (the process holds it)
    with log:
        return subprocess.Popen([*program, f"--model_dir={model_dir}"], stdout=log, stderr=log)


def last_checkpoint(model_dir: Path) -> int:
    """The step of the newest finished checkpoint; -1 if there is none."""
    folder = model_dir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def wait_for_step(process: subprocess.Popen, model_dir: Path, more_than: int) -> None:
    """Until a checkpoint newer than `more_than` is there, or the process has ended."""
    while process.poll() is None and last_checkpoint(model_dir) <= more_than:
        time.sleep(0.02)


def kill_once(arguments: list[str], model_dir: Path, wait: float, after_step: int | None) -> str:
    """Starts the run, waits for a checkpoint after `after_step` if given, and then so long."""
    process = start(arguments, model_dir)
    if after_step is not None:
        wait_for_step(process, model_dir, after_step)
    try:
        code = process.wait(wait)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    how = "killed" if code == -signal.SIGKILL else f"had ended with exit code {code}"
    return f"{how}; last checkpoint {last_checkpoint(model_dir)}"


def finish(arguments: list[str], model_dir: Path) -> float:
    """Runs to the end; seconds that it took."""
    began = time.monotonic()
    process = start(arguments, model_dir)
    if process.wait():
        print(model_dir.with_suffix(".log").read_text()[-2000:], file=sys.stderr)
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return time.monotonic() - began


def compare(a: Path, b: Path) -> list[str]:
    """Names of prompts whose bytes differ, or that only one of the runs has."""
    def read(folder: Path, name: str) -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.exists() else None

    return [name for name in PROMPTS if read(a, name) != read(b, name)]


def loop(arguments: list[str], kills: int, folder: Path, seed: int) -> int:
    rng = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    seconds = finish(arguments, whole)
    print(f"uninterrupted: {seconds:.0f} s, last checkpoint {last_checkpoint(whole)}", flush=True)
    late = 0
    for number in range(1, kills + 1):
        # The second half waits for a checkpoint to be there, so that a resumed run is killed too.
        after = None if number <= kills // 2 else -1 if last_checkpoint(killed) < 0 else 0
        wait = rng.uniform(0, seconds if after is None else seconds / 4)
        before = last_checkpoint(killed)
        told = kill_once(arguments, killed, wait, -1 if after == -1 else None)
        late += "killed" in told and max(before, last_checkpoint(killed)) >= 0
        print(f"kill {number}: after {wait:.1f} s: {told}", flush=True)
    finish(arguments, killed)
    different = compare(whole, killed)
    print(f"{late} of {kills} kills came after the first checkpoint")
    print(f"different: {', '.join(different)}" if different else "the same bytes")
    return int(bool(different) or late < min(3, kills))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the waiting times")
    given, arguments = parser.parse_known_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        return loop(arguments, given.kills, Path(folder), given.seed)


if __name__ == "__main__":
    sys.exit(main())
