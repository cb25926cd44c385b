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
    program = [sys.executable, "-m", "prompt_jax", "train", *arguments]
    log = open(model_dir.with_suffix(".log"), "ab")  # noqa: SIM115 (the process holds it)
    with log:
        return subprocess.Popen([*program, f"--model_dir={model_dir}"], stdout=log, stderr=log)


def last_checkpoint(model_dir: Path) -> int:
    """The step of the newest finished checkpoint; -1 if there is none."""
    folder = model_dir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def kill_once(
    arguments: list[str], model_dir: Path, most: float, linger: float
) -> tuple[bool, str]:
    """Starts the run; kills it `linger` seconds after a new checkpoint, or after `most` seconds.

    Returns whether it was alive to be killed, and a line about it.
    """
    before, began = last_checkpoint(model_dir), time.monotonic()
    process = start(arguments, model_dir)
    while process.poll() is None and time.monotonic() - began < most:
        if last_checkpoint(model_dir) > before:
            time.sleep(linger)
            break
        time.sleep(0.02)
    process.kill()
    code = process.wait()
    how = "killed" if code == -signal.SIGKILL else f"had ended with exit code {code}"
    after, seconds = last_checkpoint(model_dir), time.monotonic() - began
    return code == -signal.SIGKILL, f"{how} after {seconds:.1f} s; checkpoint {before} -> {after}"


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
    """A third of the kills come before the first checkpoint, the others after it."""
    rng = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    seconds = finish(arguments, whole)
    print(f"uninterrupted: {seconds:.0f} s, checkpoint {last_checkpoint(whole)}", flush=True)
    early, late = kills // 3, 0
    for number in range(1, kills + 1):
        # The first of the late ones waits for a checkpoint however long that takes.
        most = 1e9 if number == early + 1 else rng.uniform(0, seconds / 3)
        alive, told = kill_once(arguments, killed, most, linger=rng.uniform(0, 1))
        late += alive and last_checkpoint(killed) >= 0
        print(f"kill {number}: {told}", flush=True)
    finish(arguments, killed)
    different = compare(whole, killed)
    print(f"{late} of {kills} kills after the first checkpoint")
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
