"""A killed, stopped or damaged run ends in the bytes of a run left in peace, or says why not.

Real processes are killed. They come from a fork server that has imported everything beforehand,
since imports are most of what a short run costs.
"""

import gc
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from prompt_jax.errors import RunError, UserError
from prompt_jax.run.speed import CLOCKED
from prompt_jax.run.state import Checkpoints, RunCheckpoints
from prompt_jax.run.step import TrainState

BINDINGS = ("TRAIN_STEPS=40", "CHECKPOINT_PERIOD=4", "EVAL_PERIOD=8", "Train.log_period=3")
PROMPTS = ("prompt/last/prompt.safetensors", "prompt/best/prompt.safetensors")
PRELOAD = (
    "prompt_jax.run.train",
    "prompt_jax.recipe.config",
    "prompt_jax.tasks.text",
    "tensorboardX",
)
PROGRAM = "import sys; from prompt_jax.cli.main import main; sys.exit(main({argv!r}))"
PATIENCE = 300

# Orbax drops its readers of the other arrays where one fails; they are collected tests later.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. (.coroutine object|None):pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def begin(tiny):
    """Starts a run in a process of its own, on one device: `begin(model_dir) -> Process`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    jax.devices()  # this process keeps its eight, the server and its children have one
    flags = os.environ.pop("XLA_FLAGS")
    forkserver.ensure_running()
    os.environ["XLA_FLAGS"] = flags

    def start(model_dir: Path):
        argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={model_dir}"]
        argv += [f"--gin.{binding}" for binding in BINDINGS]
        process = context.Process(target=exec, args=(PROGRAM.format(argv=argv),))
        process.start()
        return process

    return start


def finished(process) -> int:
    process.join(PATIENCE)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def wait_until(there, process) -> None:
    began = time.monotonic()
    while process.is_alive() and not there():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.01)


def last_checkpoint(model_dir: Path) -> int:
    folder = model_dir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def story(model_dir: Path) -> list[dict]:
    """The records of a run without what a clock says."""
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in lines]


def assert_same(model_dir: Path, whole: Path) -> None:
    for name in PROMPTS:
        assert (model_dir / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("best", "last"):
        path = f"prompt/{name}/manifest.json"
        manifests = [(folder / path).read_text() for folder in (model_dir, whole)]
        assert manifests[0] == manifests[1]


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory):
    """The folder of an uninterrupted run."""
    model_dir = tmp_path_factory.mktemp("whole") / "model"
    assert finished(begin(model_dir)) == 0
    assert last_checkpoint(model_dir) == 40
    return model_dir


@pytest.mark.slow
def test_kills_change_no_byte(begin, whole, tmp_path):
    model_dir, rng, late = tmp_path / "model", random.Random(0), 0
    for number in range(5):
        before = last_checkpoint(model_dir)
        process = begin(model_dir)
        if number == 0:
            wait_until((model_dir / "metrics.jsonl").exists, process)
        else:
            wait_until(lambda seen=before: last_checkpoint(model_dir) > seen, process)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        code = finished(process)
        late += code == -signal.SIGKILL and last_checkpoint(model_dir) >= 0
        if code == 0:
            break
    assert late >= 2, "the run was over too soon to be killed"
    assert finished(begin(model_dir)) == 0
    assert_same(model_dir, whole)
    assert story(model_dir) == story(whole)
    assert all(name.isdecimal() for name in os.listdir(model_dir / "checkpoints"))


@pytest.mark.slow
def test_sigterm_saves_and_says_preempted(begin, whole, tmp_path):
    """Once while it evaluates before the first step, and once in the midst of training."""
    model_dir = tmp_path / "model"
    for there in ((model_dir / "config.gin").exists, lambda: last_checkpoint(model_dir) >= 4):
        process = begin(model_dir)
        wait_until(there, process)
        process.terminate()
        assert finished(process) == 75
        step = last_checkpoint(model_dir)
        assert step >= 0
        told = json.loads((model_dir / "prompt" / "last" / "manifest.json").read_text())
        assert told["step"] == step
    assert finished(begin(model_dir)) == 0
    assert_same(model_dir, whole)
    evaluations = [[r for r in story(d) if r["kind"] == "eval"] for d in (model_dir, whole)]
    assert evaluations[0] == evaluations[1]


# Damaged checkpoints


def a_state(step: int = 3) -> TrainState:
    rows = jax.random.normal(jax.random.key(step), (20, 64))
    return TrainState(jnp.int32(step), {"b": rows, "a": jnp.arange(3.0)}, {"v": rows**2})


def open_run(folder: Path, **facts) -> RunCheckpoints:
    return RunCheckpoints(epath.Path(folder), Checkpoints(keep=2), {"seed": 1, **facts})


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints of steps 3 and 5."""
    checkpoints = open_run(tmp_path)
    for step in (3, 5):
        checkpoints.save(a_state(step))
    checkpoints.close()
    return tmp_path


def restored(folder: Path, state: TrainState | None = None, **facts) -> TrainState:
    checkpoints = open_run(folder, **facts)
    try:
        return checkpoints.restore(a_state(0) if state is None else state)
    finally:
        checkpoints.close()


def same(a: TrainState, b: TrainState) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in leaves)


def test_what_is_restored_is_what_was_saved(saved):
    assert same(restored(saved), a_state(5))


def test_nothing_saved_gives_the_first_state(tmp_path):
    assert same(restored(tmp_path), a_state(0))


def test_a_half_written_checkpoint_is_never_read(saved):
    folder = saved / "checkpoints"
    shutil.copytree(folder / "5", folder / "9.orbax-checkpoint-tmp-0")
    assert same(restored(saved), a_state(5))


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def empty(file: Path) -> None:
    for child in next(p for p in file.parents if p.name == "5").iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def test_what_orbax_raises_it_does_not_log_as_well(tmp_path):
    RunCheckpoints(epath.Path(tmp_path), Checkpoints(), {})
    logger = logging.getLogger("absl")

    def shown(path: str) -> bool:
        line = logger.makeRecord("absl", logging.ERROR, path, 1, "failed", (), None)
        return logger.isEnabledFor(logging.ERROR) and bool(logger.filter(line))

    assert not shown("/lib/orbax/checkpoint/futures.py") and shown(
        "/lib/seqio/dataset_providers.py"
    )


@pytest.mark.parametrize("damage", [cut, flip_a_bit, Path.unlink, empty])
def test_a_damaged_checkpoint_is_refused_in_one_line(saved, damage):
    damage(largest_file(saved / "checkpoints" / "5"))
    with pytest.raises(RunError, match="remove it to resume from the one before") as error:
        restored(saved)
    assert "checkpoints/5" in str(error.value)
    assert "\n" not in str(error.value)
    shutil.rmtree(saved / "checkpoints" / "5")
    assert same(restored(saved), a_state(3))
    del error
    gc.collect()  # their warnings are for this file


def test_a_checkpoint_of_another_run_is_refused(saved):
    with pytest.raises(UserError, match="seed = 1, this one has 2; use another --model_dir"):
        restored(saved, seed=2)
    other = a_state(0).replace(opt_state={"m": jnp.zeros(2)})
    with pytest.raises(UserError, match=r"arrays = opt_state\.m: 'nothing'"):
        restored(saved, other)
