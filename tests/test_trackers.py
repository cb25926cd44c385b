"""Trackers of experiments: the real packages, offline, and what happens where one fails."""

import json
from pathlib import Path
from typing import cast

import pytest
from etils import epath

from prompt_jax.backbone.load import Backbone
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.inspect import trackers
from prompt_jax.inspect.observers import usual
from prompt_jax.inspect.trackers import Tracker
from prompt_jax.run.observe import Opened
from prompt_jax.run.settings import Train

ROWS = [{"inputs": "a | b", "targets": "yes", "prediction": "no"}]


def opened(folder: Path, say=print) -> Opened:
    """A run of two settings, as a tracker sees it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Opened(
        run=cast(Train, None),
        folder=epath.Path(folder),
        start=0,
        operative="SEED = 3\nTrain.method = @Lora()\n",
        records=[],
        say=say,
        backbone=cast(Backbone, None),
        lengths={},
        begin=dict,
    )


def follow(tracker: Tracker, folder: Path, step: int) -> None:
    """A run, or the part of one, with a training step and an evaluation."""
    tracker.start(opened(folder))
    follow_step(tracker, step)
    tracker.finished()


def follow_step(tracker: Tracker, step: int) -> None:
    tracker.log({"step": step, "kind": "train", "loss": 1.5, "compile_seconds": 2})
    record = {"step": step, "kind": "eval", "task": "moods", "cr+trec/accuracy": 50.0}
    tracker.log(record)
    tracker.evaluated(record, ROWS)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """A folder that all three write into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


# The packages warn about themselves; what is asked here is what they store.
real = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class TestReal:
    """The packages of the extras, without a network."""

    pytestmark = real

    def test_wandb(self, offline):
        follow(Tracker("wandb"), offline / "runs" / "moods", 5)
        follow(Tracker("wandb"), offline / "runs" / "moods", 10)
        name = json.loads((offline / "runs" / "moods" / "trackers.json").read_text())["wandb"]
        files = sorted((offline / "runs" / "moods" / "wandb").glob(f"*run-*/run-{name}.wandb"))
        assert len(files) == 2, "a resumed run keeps its name"
        stored = files[0].read_bytes()
        for name in (b"train/loss", b"eval/cr+trec/accuracy", b"@Lora()", b"table-file"):
            assert name in stored, name

    def test_mlflow(self, offline):
        follow(Tracker("mlflow"), offline / "runs" / "moods", 5)
        follow(Tracker("mlflow"), offline / "runs" / "moods", 10)
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name("prompt_jax")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.run_name, run.info.status) == ("runs/moods", "FINISHED")
        assert run.data.params == {"SEED": "3", "Train.method": "@Lora()"}
        history = client.get_metric_history(run.info.run_id, "eval/cr_trec/accuracy")
        assert [(m.step, m.value) for m in history] == [(5, 50.0), (10, 50.0)]
        assert [f.path for f in client.list_artifacts(run.info.run_id, "predictions")] == [
            "predictions/step_10.md",
            "predictions/step_5.md",
        ]

    def test_trackio(self, offline, capsys):
        members = [Tracker("trackio"), Tracker("trackio")]
        for n, tracker in enumerate(members):
            tracker.start(opened(offline / "members" / str(n)))
        for tracker in members:
            follow_step(tracker, 5)
        for tracker in members:
            tracker.finished()
        assert capsys.readouterr().out == "", "standard output is for results"
        from trackio.sqlite_storage import SQLiteStorage

        runs = SQLiteStorage.get_runs("prompt_jax")
        assert sorted(name.split()[0] for name in runs) == ["members/0", "members/1"]
        for run in runs:
            logs = SQLiteStorage.get_logs("prompt_jax", run)
            assert [row["train/loss"] for row in logs if "train/loss" in row] == [1.5]
            (table,) = [row["predictions"] for row in logs if "predictions" in row]
            assert table["_value"] == ROWS


def test_unknown_trackers_are_refused_before_anything_is_read(capsys):
    command = ["train", "--gin_file=runs/quickstart.gin", "--model_dir=x", "--track=tensorboard"]
    assert main(command) == 2
    assert "--track=tensorboard: no such tracker; known are: wandb" in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(trackers.SERVICES, "no_such_package", trackers.Wandb)
    with pytest.raises(UserError, match=r"pip install 'prompt-jax\[no_such_package\]'"):
        trackers.check(["no_such_package"])


def test_the_usual_observers_hold_each_tracker_once():
    found = [o.name for o in usual(track=["wandb", "mlflow", "wandb"]) if isinstance(o, Tracker)]
    assert found == ["wandb", "mlflow"]


class Failing:
    """A service that opens and then fails."""

    def __init__(self, run: trackers.Beginning):
        self.id = "one"
        if run.id is not None:
            raise OSError("no network")

    def log(self, values, step):
        raise OSError("disk full")

    def predictions(self, rows, step):
        raise AssertionError("it was left")

    def close(self):
        raise AssertionError("it was left")


def test_a_tracker_that_fails_is_left_and_one_that_does_not_open_ends_the_run(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(trackers.SERVICES, "failing", Failing)
    lines: list[str] = []
    tracker = Tracker("failing")
    tracker.start(opened(tmp_path, lines.append))
    follow_step(tracker, 5)
    tracker.finished()
    assert lines == ["failing is left: OSError: disk full"]
    with pytest.raises(UserError, match="--track=failing: no network"):
        Tracker("failing").start(opened(tmp_path))


def test_a_damaged_file_of_ids_is_named(tmp_path):
    (tmp_path / "trackers.json").write_text('{"wandb": ')
    with pytest.raises(UserError, match=r"trackers\.json: .*; remove it, and the tracker begins"):
        Tracker("wandb").start(opened(tmp_path))
