"""A pod on one machine: the recipe as several local processes, some of them killed, and compared.

The same `prompt-jax train` runs in `MODEL_DIR/together` (N processes with M virtual devices each),
in `alone` (one process with N * M devices) and, with kills, in `killed` (as `together`, but at each
kill one process gets SIGKILL, the others have to stop by themselves, and all start again). A
program of stages is compared stage by stage; its steps are counted through all of them.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from prompt_jax.data.digests import AHEAD, different_steps, path_of, read_digests
from prompt_jax.errors import RunError, UserError

STOPPING = 60  # seconds that the others have to notice a kill
MADE_AHEAD = AHEAD + 1  # steps between the one that runs and the newest batch that is made
MET = "processes answered: "  # what process 0 says when all are there
PROMPT = "prompt/last"
TENSORS = ("prompt.safetensors", "model.safetensors")  # a prompt's, or a whole tuned model's
PLACE = ("PROMPT_JAX_COORDINATOR", "PROMPT_JAX_PROCESSES", "PROMPT_JAX_PROCESS")
DEVICE_COUNT = "xla_force_host_platform_device_count"


@dataclass(frozen=True)
class Rehearsal:
    """What is run.

    Attributes:
      arguments: flags of `prompt-jax train` but for --model_dir and those of the processes.
      parts: the folders in a model_dir that train, in turn, and the steps of each: {"": N}, or
        those of the stages.
      kills: "random", or "PROCESS@STEP".
      bound: of the difference between prompts, for 20 steps.
    """

    arguments: Sequence[str]
    model_dir: Path
    processes: int
    devices: int
    parts: Mapping[str, int]
    kills: Sequence[str] = ()
    seed: int = 0
    bound: float = 1e-4
    say: Callable[[str], None] = field(default=print, repr=False)

    @property
    def steps(self) -> int:
        """Of all parts together."""
        return sum(self.parts.values())

    def part_of(self, step: int) -> tuple[str, int]:
        """The part that takes a step, and the number of that part's first step."""
        first = 0
        for part, steps in self.parts.items():
            if step < first + steps:
                return part, first
            first += steps
        raise AssertionError(f"step {step} of {self.steps}")

    def different(self, one: Path, other: Path) -> list[int]:
        """The steps at which two runs had not the same rows in the same places."""
        found, first = [], 0
        for part, steps in self.parts.items():
            found += [first + n for n in different_steps(one / part, other / part, steps)]
            first += steps
        return found

    def difference(self, one: Path, other: Path) -> float:
        """The largest difference between what two runs trained, over all parts."""
        return max(prompt_difference(one / part, other / part) for part in self.parts)

    def same_bytes(self, one: Path, other: Path) -> bool:
        return all(_bytes(one / part) == _bytes(other / part) for part in self.parts)

    def __post_init__(self):
        for kill in self.kills:
            process, at, step = kill.partition("@")
            if kill == "random":
                continue
            if not (at and process.isdecimal() and step.isdecimal()):
                raise UserError(
                    f"--kill={kill}", remedy="write PROCESS@STEP, as in 2@10, or random"
                )
            if int(process) >= self.processes or int(step) >= self.steps:
                raise UserError(
                    f"--kill={kill}",
                    (
                        f"there are {self.processes} processes, counted from 0, and {self.steps} "
                        "steps"
                    ),
                )


def rehearse(plan: Rehearsal) -> dict[str, Any]:
    """Runs and compares; the report's `ok` says whether all that must be equal is.

    Raises:
      RunError: a run failed by itself, or processes did not stop after a kill.
    """
    together = _Run(plan, "together", plan.processes, plan.devices)
    alone = _Run(plan, "alone", 1, plan.processes * plan.devices)
    seconds = {run.name: run.finish() for run in (together, alone)}
    batches = plan.different(together.folder, alone.folder)
    difference = plan.difference(together.folder, alone.folder)
    report: dict[str, Any] = {
        "model_dir": str(plan.model_dir),
        "processes": plan.processes,
        "devices": plan.devices,
        "steps": plan.steps,
        "seconds": seconds,
        "batches_compared": plan.steps,
        "batches_different": batches,
        "prompt_difference": difference,
        "bound": plan.bound,
        "ok": not batches and difference <= plan.bound,
    }
    if plan.kills:
        killed = _Run(plan, "killed", plan.processes, plan.devices)
        report["kills"] = _kill(plan, killed, seconds["together"])
        killed.finish()
        report["killed_batches_different"] = plan.different(killed.folder, alone.folder)
        report["killed_difference"] = plan.difference(killed.folder, together.folder)
        report["killed_same_bytes"] = plan.same_bytes(killed.folder, together.folder)
        report["ok"] &= report["killed_same_bytes"] and not report["killed_batches_different"]
    return report


def _kill(plan: Rehearsal, run: "_Run", seconds: float) -> list[dict[str, Any]]:
    """Carries out the kills one after the other; all processes start anew after each.

    Random ones are spread over the steps, one to each of as many parts; a third of them comes
    earlier, at any moment after the processes have met.
    """
    rng, done = random.Random(plan.seed), []
    for number, kill in enumerate(plan.kills):
        saved, early, linger = run.last_checkpoint(), None, 0.0
        if kill == "random":
            victim, linger = rng.randrange(plan.processes), rng.uniform(0, 0.1)
            step = int((number + rng.random()) * plan.steps / len(plan.kills))
            early = rng.uniform(0, seconds / 2) if rng.random() < 1 / 3 else None
        else:
            victim, step = map(int, kill.split("@"))
        facts = run.kill(victim, min(max(step, saved), plan.steps - 1), early, linger)
        done.append({"kill": kill, "checkpoint": saved, **facts})
        moment = f"killed at step {facts['step']}" if facts["killed"] else "had ended"
        plan.say(
            f"kill {number + 1}: process {victim} {moment} (begun from checkpoint {saved}); the "
            f"others stopped within {facts['stopped_after']:.1f} s: {facts['said'][0]}"
        )
    return done


class _Run:
    """One model_dir and the processes that train in it."""

    def __init__(self, plan: Rehearsal, name: str, processes: int, devices: int):
        self.plan, self.name, self.processes, self.devices = plan, name, processes, devices
        self.folder = plan.model_dir / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> list[subprocess.Popen]:
        port = free_port()
        program = [sys.executable, "-m", "prompt_jax", "train", *self.plan.arguments]
        program += [f"--model_dir={self.folder}", "--batch_digests"]
        if self.processes > 1:
            program += [f"--coordinator=127.0.0.1:{port}", f"--processes={self.processes}"]
        started = []
        for number in range(self.processes):
            one = [*program, f"--process={number}"] if self.processes > 1 else program
            with open(self.log(number), "wb") as log:
                started.append(
                    subprocess.Popen(one, stdout=log, stderr=log, env=environment(self.devices))
                )
        return started

    def log(self, process: int) -> Path:
        return self.folder / f"process_{process}.log"

    def said(self, process: int) -> str:
        """The error that a process ended with, else its last line."""
        lines = self.log(process).read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("prompt-jax: error:")]
        return (errors or lines or ["nothing"])[-1]

    def finish(self) -> float:
        """Runs to the end; seconds that it took."""
        began = time.monotonic()
        started = self.start()
        for number, process in enumerate(started):
            if process.wait():
                _stop(started)
                raise RunError(f"{self.name}: process {number} failed: {self.said(number)}")
        seconds = time.monotonic() - began
        self.plan.say(
            f"{self.name}: {self.processes} processes x {self.devices} devices: "
            f"{self.plan.steps} steps in {seconds:.0f} s"
        )
        return seconds

    def kill(self, victim: int, step: int, early: float | None, linger: float) -> dict[str, Any]:
        """Starts all; kills one that has begun `step`, or `early` seconds after they met."""
        part, first = self.plan.part_of(step)
        newest = first + self.plan.parts[part] - 1 - MADE_AHEAD  # later ones cannot be told apart
        step = min(step, max(newest, first))
        digests = path_of(self.folder / part, victim, self.processes)
        old = digests.stat().st_size if digests.exists() else 0
        reached, met, started = -1, None, self.start()
        while started[victim].poll() is None:
            read = [first + read.step - MADE_AHEAD for read in read_digests(digests, old)]
            reached = max([reached, *read])
            if met is None and MET in self.log(0).read_text(errors="replace"):
                met = time.monotonic()
            if early is not None and met is not None and time.monotonic() - met >= early:
                break
            if reached >= step:
                time.sleep(linger)
                break
            time.sleep(0.02)
        started[victim].kill()
        alive = started[victim].wait() == -signal.SIGKILL
        killed = time.monotonic()
        codes = [_wait(process, killed + STOPPING) for process in started]
        if None in codes:
            _stop(started)
            raise RunError(
                f"{self.name}: process {codes.index(None)} still ran {STOPPING} s after process "
                f"{victim} was killed"
            )
        if alive and 0 in codes:
            raise RunError(f"{self.name}: a process ended with 0 though {victim} was killed")
        return {
            "process": victim,
            "killed": alive,
            "step": reached,
            "stopped_after": time.monotonic() - killed,
            "exit_codes": codes,
            "said": [self.said(n) for n in range(self.processes) if n != victim],
        }

    def last_checkpoint(self) -> int:
        """The step of the newest finished checkpoint; -1 if there is none."""
        newest, first = -1, 0
        for part, steps in self.plan.parts.items():
            folder = self.folder / part / "checkpoints"
            names = [path.name for path in folder.iterdir()] if folder.exists() else []
            saved = [first + int(name) for name in names if name.isdecimal()]
            newest, first = max([newest, *saved]), first + steps
        return newest


def prompt_difference(one: Path, other: Path) -> float:
    """The largest difference between what two runs trained: prompts, or whole models."""
    a, b = (safetensors.numpy.load(_bytes(folder)) for folder in (one, other))
    wide = {name: (a[name].astype(np.float32), b[name].astype(np.float32)) for name in a}
    return max(float(np.abs(x - y).max()) for x, y in wide.values())


def _bytes(folder: Path) -> bytes:
    """The file of arrays that a run ended with."""
    paths = [folder / PROMPT / name for name in TENSORS]
    return next(path for path in paths if path.exists()).read_bytes()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """This process's, but on the CPU with so many devices, and of no other run."""
    environment = {k: v for k, v in os.environ.items() if k not in PLACE}
    flags = [f for f in environment.get("XLA_FLAGS", "").split() if DEVICE_COUNT not in f]
    flags.append(f"--{DEVICE_COUNT}={devices}")
    return {**environment, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}


def _wait(process: subprocess.Popen, deadline: float) -> int | None:
    """The exit code, None if it still runs at the deadline."""
    try:
        return process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return None


def _stop(started: Sequence[subprocess.Popen]) -> None:
    for process in started:
        process.kill()
        process.wait()
