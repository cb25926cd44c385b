"""Several real processes: the same rows, the same prompt, and an end for all when one is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from prompt_jax.cli.main import main
from prompt_jax.data.digests import BatchDigests, different_steps, global_batches
from prompt_jax.errors import UserError
from prompt_jax.hosts import meet
from prompt_jax.hosts.rehearse import Rehearsal, environment, free_port, prompt_difference
from prompt_jax.run.log import read_metrics


def rehearse(tiny, model_dir, capsys, *flags) -> dict:
    code = main(
        ["rehearse", f"--gin_file={tiny}/run.gin", f"--model_dir={model_dir}", "--json", *flags]
    )
    report = json.loads(capsys.readouterr().out)
    assert code == int(not report["ok"])
    return report


@pytest.mark.slow
def test_four_processes_train_as_one_and_a_kill_changes_no_byte(tiny, tmp_path, capsys):
    flags = ["--gin.TRAIN_STEPS=20", "--processes=4", "--devices=2", "--kill=2@7", "--kill=0@13"]
    report = rehearse(tiny, tmp_path, capsys, *flags)
    assert report["ok"]
    assert report["batches_different"] == report["killed_batches_different"] == []
    assert report["prompt_difference"] <= 1e-4
    assert report["killed_same_bytes"]
    begun = [kill["checkpoint"] for kill in report["kills"]]
    assert begun[0] == -1 and begun[1] >= 4  # the restart went on from a checkpoint
    for kill in report["kills"]:
        assert kill["killed"] and kill["stopped_after"] < 30
        assert kill["exit_codes"] == [-9 if n == kill["process"] else 1 for n in range(4)]
        lost = f"process {kill['process']} failed, was killed or stopped"
        assert all(lost in line for line in kill["said"]), kill["said"]


def test_without_a_folder_the_runs_go_to_a_temporary_one(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = lambda plan: {"ok": True, "model_dir": str(plan.model_dir)}  # noqa: E731
    monkeypatch.setattr("prompt_jax.hosts.rehearse.rehearse", done)
    assert main(["rehearse", f"--gin_file={tiny}/run.gin", "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["model_dir"])
    assert folder.is_dir() and folder.parent == tmp_path


@pytest.mark.slow
def test_ten_random_kills_change_no_byte(tiny, tmp_path, capsys):
    """They fall all over the run; a survivor names the lost one, unless gloo aborts it first."""
    flags = ["--gin.TRAIN_STEPS=80", "--processes=2", "--devices=4", *["--kill=random"] * 10]
    report = rehearse(tiny, tmp_path, capsys, *flags)
    assert report["ok"] and report["killed_same_bytes"]
    killed = [kill for kill in report["kills"] if kill["killed"]]
    assert len(killed) >= 8
    begun = [kill["checkpoint"] for kill in killed]
    assert begun == sorted(begun) and sum(step > 0 for step in begun) >= 5 and max(begun) >= 40
    for kill in killed:
        lost = f"(process {kill['process']} failed, was killed or stopped|ended by SIGABRT)"
        assert all(re.search(lost, line) for line in kill["said"]), kill["said"]


@pytest.fixture
def start(tiny):
    """Starts a run of several processes; those that a failed test leaves are killed."""
    begun = []

    def processes_of(model_dir, processes: int, *flags: str) -> list[subprocess.Popen]:
        address = f"127.0.0.1:{free_port()}"
        program = [
            sys.executable,
            "-m",
            "prompt_jax",
            "train",
            f"--gin_file={tiny}/run.gin",
            f"--model_dir={model_dir}",
            f"--coordinator={address}",
            f"--processes={processes}",
            *flags,
        ]
        for n in range(processes):
            begun.append(
                subprocess.Popen(
                    [*program, f"--process={n}"],
                    env=environment(8 // processes),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return begun[-processes:]

    yield processes_of
    for process in begun:
        process.kill()
        process.communicate()


def preempt(started: list[subprocess.Popen], number: int, there) -> int:
    """SIGTERM to one process once `there()`; the step that all of them saved."""
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < 300 and started[0].poll() is None
        time.sleep(0.02)
    started[number].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [75, 75], said
    assert [out for out, _ in said] == ["", ""]  # standard output is for reports
    (step,) = {int(re.search(r"preempted: saved step (\d+)", err)[1]) for _, err in said}  # type: ignore
    return step


@pytest.mark.slow
def test_sigterm_to_one_is_agreed_by_all_and_another_host_count_goes_on(tiny, start, tmp_path):
    """Two processes are preempted at one step; one process of eight devices ends the run."""
    model_dir = tmp_path / "run"
    each = "--gin.Train.log_period=1"  # a record a step, wherever the processes stop
    step = preempt(start(model_dir, 2, each), 1, (model_dir / "config.gin").exists)
    assert str(step) in os.listdir(model_dir / "checkpoints")
    for folder in (model_dir, tmp_path / "alone"):
        assert main(["train", f"--gin_file={tiny}/run.gin", f"--model_dir={folder}", each]) == 0
    assert prompt_difference(model_dir, tmp_path / "alone") <= 1e-4
    stories = [read_metrics(folder) for folder in (model_dir, tmp_path / "alone")]
    for one, other in zip(*stories, strict=True):
        same = ("step", "kind", "accuracy", "tokens", "examples")
        assert {k: one.get(k) for k in same} == {k: other.get(k) for k in same}


@pytest.mark.slow
def test_a_farm_over_two_processes_trains_the_members_of_one(tiny, start, tmp_path):
    """Four members in slots of two processes, of which the worse half stops at step 4."""
    grid = ["--gin.FARM={'LEARNING_RATE': [0.3, 0.1], 'SEED': [0, 1]}", "--gin.Farm.halve_at=4"]
    lengths = ["--gin.TRAIN_STEPS=8", "--gin.EVAL_PERIOD=4", "--gin.CHECKPOINT_PERIOD=4"]
    flags = [*grid, *lengths, "--gin.Farm.at_once=4"]
    started = start(tmp_path / "two", 2, *flags)
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said[0][0] and not said[1][0]  # one process prints the tables
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path / 'one'}", *flags]
    assert main(argv) == 0
    rows = [
        [json.loads(line) for line in (tmp_path / name / "farm.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert len(rows[0]) == 4
    for one, other in zip(*rows, strict=True):
        same = ("name", "status", "step", "best", "best_step")
        assert {k: one[k] for k in same} == {k: other[k] for k in same}
        folders = [tmp_path / name / "members" / one["name"] for name in ("two", "one")]
        assert prompt_difference(*folders) <= 1e-4


@pytest.mark.slow
def test_a_preemption_in_the_midst_of_training_saves_one_step_for_all(start, tmp_path):
    model_dir = tmp_path / "run"
    long = [f"--gin.{name}=100000" for name in ("TRAIN_STEPS", "EVAL_PERIOD", "CHECKPOINT_PERIOD")]
    started = start(model_dir, 2, *long)
    trained = lambda: any(r["kind"] == "train" for r in read_metrics(model_dir))  # noqa: E731
    step = preempt(started, 0, trained)
    assert step > 0
    assert os.listdir(model_dir / "checkpoints") == [str(step)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_given_up_by_the_other_and_ends_when_it_wakes(start, tmp_path, victim):
    """A real SIGSTOP in the midst of training: the other says so and leaves within 40 s."""
    model_dir, other = tmp_path / "run", 1 - victim
    long = [f"--gin.{name}=1000000" for name in ("TRAIN_STEPS", "EVAL_PERIOD", "CHECKPOINT_PERIOD")]
    started = start(model_dir, 2, *long)
    while not any(r["kind"] == "train" for r in read_metrics(model_dir)):
        assert started[0].poll() is None
        time.sleep(0.1)
    task = Path(f"/proc/{started[victim].pid}/task/{started[victim].pid}/children")
    (child,) = map(int, task.read_text().split())
    os.kill(child, signal.SIGSTOP)
    assert started[other].wait(timeout=meet.HEARTBEAT + 20) == 1
    error = started[other].communicate(timeout=60)[1]
    lost = rf"process {victim} failed, was killed or stopped, or cannot be reached, so this one"
    assert re.search(f"{lost} stops: run the same command again", error)
    os.kill(child, signal.SIGCONT)
    assert started[victim].communicate(timeout=30)
    assert started[victim].returncode not in (0, None)


def test_digests_tell_rows_that_differ(tmp_path):
    rows = {"x": np.arange(8).reshape(4, 2)}
    halves = [{"x": rows["x"][:2]}, {"x": rows["x"][2:]}]
    one = BatchDigests(tmp_path / "one", 0, 1)
    one.write(0, 0, rows)
    one.write(1, 0, rows)
    for number, half in enumerate(halves):
        two = BatchDigests(tmp_path / "two", number, 2)
        two.write(0, 2 * number, half)
        two.write(1, 2 * (1 - number), half)  # in each other's place
        two.close()
    one.close()
    assert sorted(global_batches(tmp_path / "two")[0]) == [0, 1, 2, 3]
    assert different_steps(tmp_path / "one", tmp_path / "two", 3) == [1, 2]


def left(folder: Path, name: str, rows: np.ndarray, value: float) -> None:
    """What a part of a run leaves: the digests of its batches, and its arrays."""
    noted = BatchDigests(folder, 0, 1)
    for step in range(len(rows)):
        noted.write(step, 0, {"x": rows[step : step + 1]})
    noted.close()
    (folder / "prompt" / "last").mkdir(parents=True)
    array = np.full((2, 2), value, np.float32)
    safetensors.numpy.save_file({"encoder": array}, folder / "prompt" / "last" / name)


def test_stages_are_compared_one_by_one_and_their_steps_counted_through(tmp_path):
    plan = Rehearsal([], tmp_path, 2, 1, {"stage_1": 3, "stage_2": 2}, kills=["1@4"])
    for run, value in (("one", 1.0), ("other", 1.5)):
        left(tmp_path / run / "stage_1", "prompt.safetensors", np.arange(3), 1.0)
        left(tmp_path / run / "stage_2", "model.safetensors", np.arange(2) * value, value)
    one, other = tmp_path / "one", tmp_path / "other"
    assert plan.steps == 5
    assert [plan.part_of(step) for step in (2, 3)] == [("stage_1", 0), ("stage_2", 3)]
    assert plan.different(one, other) == [4]  # the second row of stage 2
    assert plan.difference(one, other) == 0.5
    assert plan.same_bytes(one, one) and not plan.same_bytes(one, other)


@pytest.mark.slow
def test_a_program_of_stages_is_rehearsed(tiny, tmp_path, capsys):
    recipe = tmp_path / "stages.gin"
    text = (
        "Stages.stages = (@one/Stage(), @two/Stage())\nStage.run = @Train()\ntwo/Train.seed = 1\n"
    )
    recipe.write_text((tiny / "run.gin").read_text() + text)
    argv = ["rehearse", f"--gin_file={recipe}", f"--model_dir={tmp_path / 'D'}", "--json"]
    flags = ["--processes=2", "--devices=1", "--gin.TRAIN_STEPS=8", "--kill=1@11"]
    assert main([*argv, *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 16 and report["killed_same_bytes"]
    assert report["kills"][0]["killed"] and report["kills"][0]["step"] >= 8


@pytest.mark.parametrize(
    ("kill", "part"),
    [("2", "write PROCESS@STEP"), ("4@1", "there are 4 processes"), ("1@20", "20 steps")],
)
def test_kills_that_cannot_be(tmp_path, kill, part):
    with pytest.raises(UserError, match=part):
        Rehearsal([], tmp_path, 4, 2, {"": 12, "more": 8}, kills=[kill])
