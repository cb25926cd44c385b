"""Whole commands in processes of their own: how long they take to start and to end, and how much
memory.

The recipe is prompt tuning on synthetic rows, over a folder of random weights.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.bench import peft_alone
from prompt_jax.errors import RunError
from prompt_jax.model.t5 import T5Config

RECIPE = """
include 'base.gin'
include 'methods/lester.gin'

BACKBONE = 'files:{folder}/backbone'
TASK = 'synthetic?inputs={columns}&targets={targets}&labels={labels}'
INPUT_LENGTH = {columns}
TARGET_LENGTH = {targets}
PROMPT_LENGTH = {prompt}
BATCH_SIZE = {batch}
TRAIN_STEPS = {steps}
EVAL_PERIOD = {steps}
CHECKPOINT_PERIOD = {steps}
SoftPrompt.init = @UniformInit()
Data.packed = False
Backbone.dtype = 'float32'
Backbone.dropout_rate = 0.0
"""
WITHOUT_EVALUATION = ("Train.evaluation=None", "BEST_METRIC=None")
CACHES = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a command does: steps of `batch` rows of `columns` and `targets` tokens without padding.

    `labels`: 0 unless its evaluations are to choose.
    """

    config: T5Config
    batch: int
    prompt: int
    columns: int = 128
    targets: int = 16
    steps: int = 3
    labels: int = 0


@contextlib.contextmanager
def recipe(work: Work) -> Iterator[Path]:
    """A folder with `run.gin` and the weights that it names; their vocabulary is bytes, of which a
    text has more than it has words."""
    with tempfile.TemporaryDirectory(prefix="prompt_jax_bench_") as name:
        folder = Path(name)
        arrays = weights.lazy_arrays(weights.init(work.config, 0))
        files.write(str(folder / "backbone"), work.config, arrays, "bytes")
        values = {name: value for name, value in vars(work).items() if name != "config"}
        (folder / "run.gin").write_text(RECIPE.format(folder=folder, **values))
        yield folder


@dataclasses.dataclass(frozen=True)
class Ran:
    """A command: seconds to its first record and to its end, and its most memory in GiB."""

    first: float
    seconds: float
    peak: float


def train(
    folder: Path, model_dir: Path, bindings: Sequence[str] = (), cache: Path | None = None
) -> Ran:
    """`prompt-jax train` in a process of its own, what it compiles in `cache`; None: nowhere.

    The first record is written after `Train.log_period` steps.
    """
    command = [sys.executable, "-m", "prompt_jax", "train", f"--gin_file={folder}/run.gin"]
    command += [f"--gin.{binding}" for binding in bindings] + [f"--model_dir={model_dir}"]
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    if cache is None:
        environment["JAX_COMPILATION_CACHE_DIR"] = ""
    else:
        environment["XDG_CACHE_HOME"] = str(cache)
    records = [model_dir / "metrics.jsonl"]
    return ran(command, environment, records)


def ran(command: Sequence[str], environment: dict[str, str], records: Sequence[Path]) -> Ran:
    """Runs a command to its end; RunError with what it said where it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        first = None
        while True:
            process, status, usage = os.wait4(child.pid, os.WNOHANG)
            if first is None and any(path.exists() and path.stat().st_size for path in records):
                first = time.perf_counter() - began
            if process:
                break
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            errors.seek(0)
            raise RunError(f"{' '.join(command)}: {errors.read()[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(seconds if first is None else first, seconds, usage.ru_maxrss * unit / 2**30)


def steady(model_dir: Path) -> float:
    """The median of a run's seconds a step."""
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return median(r["seconds_per_step"] for r in records if r["kind"] == "train")


def peft(work: Work) -> Ran:
    """The same steps in PEFT, in a process that knows nothing of this package."""
    shape = {
        "config": dataclasses.asdict(work.config),
        "prompt": work.prompt,
        "rows": work.batch,
        "columns": work.columns,
        "targets": work.targets,
        "steps": work.steps,
    }
    # -P: this folder has a peft.py
    command = [sys.executable, "-P", str(peft_alone.__file__), json.dumps(shape)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RunError(f"peft_alone.py: {done.stderr[-2000:]}")
    facts = json.loads(done.stdout.splitlines()[-1])
    return Ran(facts["first_step"], seconds, facts["peak"] / 2**30)


def parts(folder: Path, *bindings: str) -> dict[str, Any]:
    """What `parts.py` prints of the recipe in a folder, in a process of its own."""
    command = [sys.executable, "-m", "prompt_jax.bench.parts", str(folder), *bindings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
