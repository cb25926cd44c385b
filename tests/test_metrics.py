"""What a run reports: the log, the best step, and when numbers stop being numbers."""

import errno
import json
import os
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from prompt_jax.errors import RunError, UserError
from prompt_jax.inspect.tensorboard import TensorBoard
from prompt_jax.objective.loss import Per
from prompt_jax.run.folder import open_folder
from prompt_jax.run.log import Meter, MetricsLog, check_best_metric, read_metrics
from prompt_jax.run.observe import Opened
from prompt_jax.run.speed import Speed


def evaluation(step: int, value: float) -> dict:
    return {"step": step, "kind": "eval", "accuracy": value}


def step_metrics(loss: float = 6.0, norm: float = 1.0) -> dict:
    values = {"loss": loss, "z_loss": 0.5, "accuracy": 2.0, "tokens": 4.0, "trainable_norm": norm}
    found = {name: jnp.float32(value) for name, value in values.items()}
    return {**found, "accuracy": Per(found["accuracy"])}


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def test_opening_at_a_step_drops_what_came_after(folder):
    log = MetricsLog(folder, 0)
    for step in (0, 4, 8):
        log.write(evaluation(step, 1.0))
    log.close()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "ki')  # cut short by a kill
    assert [r["step"] for r in read_metrics(folder)] == [0, 4, 8]
    log = MetricsLog(folder, 4)
    log.write(evaluation(8, 2.0))
    log.close()
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["accuracy"]) for r in told] == [(0, 1.0), (4, 1.0), (8, 2.0)]


class Seen:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def start(self, opened):
        self.calls.append(("start", opened.start))

    def log(self, record):
        self.calls.append(("log", record["step"]))

    def evaluated(self, record, predictions):
        self.calls.append(("evaluated", record["step"], len(predictions)))

    def finished(self):
        self.calls.append(("finished",))


def opened(folder) -> Opened:
    run: Any = None  # no observer here looks at it
    return Opened(run, folder, 0, "", [], print, run, {}, dict)


def test_observers_follow_a_run_in_its_order(folder):
    seen = Seen()
    log = MetricsLog(folder, 0, observers=[seen])
    log.start(opened(folder))
    log.evaluation(evaluation(0, 1.0), [{}, {}])
    log.write({"step": 2, "kind": "train"})
    log.close()
    expected = [("start", 0), ("log", 0), ("evaluated", 0, 2), ("log", 2), ("finished",)]
    assert seen.calls == expected


def test_tensorboard_has_numbers_and_predictions_from_the_first_record_on(folder):
    board = TensorBoard()
    log = MetricsLog(folder, 0, observers=[board])
    log.start(opened(folder))
    assert not (folder / "tensorboard").exists()
    log.evaluation(evaluation(0, 1.0), [{"inputs": "a", "targets": "b", "prediction": "seen"}])
    log.close()
    (events,) = (folder / "tensorboard").iterdir()
    written = events.read_bytes()
    assert b"eval/accuracy" in written and b"| a | b | seen |" in written


def test_a_disk_that_fills_is_one_error_of_the_folder(folder, monkeypatch):
    """TensorBoard writes in the run's own thread, so that nothing else prints it again."""
    threads = threading.active_count()
    board = TensorBoard()
    with pytest.raises(RunError) as error, open_folder(str(folder / "run")) as place:
        board.start(opened(place))
        board.log({"step": 1, "kind": "train", "loss": 1.0})
        assert threading.active_count() == threads

        def full(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(board._open().file, "write_event", full)
        try:
            board.log({"step": 2, "kind": "train", "loss": 1.0})
        except OSError as cause:
            raise ValueError("cannot write") from cause  # as a library wraps it
    said = f"model_dir '{folder}/run': no space is left there; free some and run the same command"
    assert str(error.value).startswith(said)
    board.finished()


def test_tensorboard_reaches_a_bucket_while_the_run_goes_on(folder, monkeypatch):
    """Nothing can be appended to there: the file is copied whole, over and over."""
    monkeypatch.setattr("prompt_jax.inspect.tensorboard.is_local", lambda path: False)
    board = TensorBoard()
    log = MetricsLog(folder, 0, observers=[board])
    log.start(opened(folder))
    log.evaluation(evaluation(0, 1.0), [{"inputs": "a", "targets": "b", "prediction": "seen"}])
    (events,) = (folder / "tensorboard").iterdir()
    log.write({"step": 2, "kind": "train", "loss": 1.0})
    log.close()
    written = events.read_bytes()
    assert b"| a | b | seen |" in written and b"train/loss" in written
    assert len(list(events.parent.iterdir())) == 1


def test_records_reach_a_bucket_while_the_run_goes_on(folder, monkeypatch, capsys):
    """Not at every record, and a bucket that is away for a while ends nothing."""
    monkeypatch.setattr("prompt_jax.run.log.is_local", lambda path: False)
    monkeypatch.setattr("prompt_jax.run.log.PAUSES", (0.0, 0.0))
    log = MetricsLog(folder, 0)
    steps = lambda: [record["step"] for record in read_metrics(folder)]  # noqa: E731
    log.write({"step": 1, "kind": "train"})
    log.write({"step": 2, "kind": "train"})
    assert steps() == [1]
    monkeypatch.setattr("prompt_jax.run.log.PUBLISH_SECONDS", 0.0)
    log.write({"step": 3, "kind": "train"})
    assert steps() == [1, 2, 3]
    write, answers = log._write_all, [OSError("503\nbusy"), ConnectionError("reset"), None]

    def away():
        if (answer := answers.pop(0) if answers else None) is not None:
            raise answer
        write()

    monkeypatch.setattr(log, "_write_all", away)
    log.write({"step": 4, "kind": "train"})
    assert steps() == [1, 2, 3]
    log.evaluation(evaluation(4, 1.0), [])
    assert steps() == [1, 2, 3, 4, 4]
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{folder}/metrics.jsonl is not written yet (OSError: 503)"
    answers += [OSError("gone")] * 3
    log.close()
    assert steps() == [1, 2, 3, 4, 4]


def test_tensorboard_needs_a_bucket_less_than_the_run_does(folder, monkeypatch, capsys):
    monkeypatch.setattr("prompt_jax.inspect.tensorboard.is_local", lambda path: False)
    board = TensorBoard()
    (folder / "tensorboard").write_text("no folder")
    board.start(opened(folder))
    board.log({"step": 2, "kind": "train", "loss": 1.0})
    board.finished()
    assert "tensorboard is not written (" in capsys.readouterr().out

    def nowhere(prefix):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", nowhere)
    board.start(opened(folder))
    board.log({"step": 2, "kind": "train", "loss": 1.0})
    board.finished()
    said = capsys.readouterr().out
    assert said == "TensorBoard is left out: No usable temporary directory found\n"


@pytest.mark.parametrize(("direction", "step"), [("max", 4), ("min", 2)])
def test_ties_go_to_the_earlier_step(folder, direction, step):
    log = MetricsLog(folder, 0)
    beaten = []
    for at, value in ((0, 5.0), (2, 1.0), (4, 9.0), (6, 9.0), (8, 1.0), (10, float("nan"))):
        if log.beats(value, "accuracy", direction):
            beaten.append(at)
        log.write(evaluation(at, value))
    log.close()
    assert beaten[-1] == step
    assert log.best("accuracy", direction)[1] == step


def test_a_metric_that_the_evaluation_does_not_give():
    with pytest.raises(
        UserError, match="BEST_METRIC = 'f1': the evaluation does not give it; it gives: accuracy"
    ):
        check_best_metric(("f1", "max"), {"accuracy": 1.0})


def test_the_meter_gives_means():
    meter = Meter()
    assert meter.record(0) is None
    for loss in (6.0, 10.0):
        meter.add(step_metrics(loss), examples=3)
    record = meter.record(2)
    assert (record["step"], record["kind"]) == (2, "train")
    assert (record["loss"], record["examples"]) == (8.0, 3.0)
    assert (record["accuracy"], record["loss_per_token"], record["tokens"]) == (0.5, 2.0, 4.0)
    assert meter.record(2) is None


def test_the_meter_tells_speed_compiling_and_memory(monkeypatch):
    """Of a step of one second a tenth is compiling, which is no part of the speed."""
    meter = Meter(Speed(flops=1e6, peak=1e9))
    now = time.perf_counter()
    clock = iter(range(1, 1000))  # a second between two looks
    monkeypatch.setattr(time, "perf_counter", lambda: now + next(clock))
    meter.add(step_metrics(), 3, tokens=90)
    jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 0.1)
    record = meter.record(1)
    assert record["compile_seconds"] == pytest.approx(0.1)
    assert record["compiled_programs"] == 1
    assert record["tokens_per_second"] == pytest.approx(100, rel=0.1)
    assert record["model_flops_utilisation"] == pytest.approx(1e6 / 0.9 / 1e9, rel=0.1)
    assert record["host_peak_bytes"] > 1e7
    unknown = Meter(Speed(flops=1e6, peak=None))
    unknown.add(step_metrics(), 3, tokens=90)
    assert "model_flops_utilisation" not in unknown.record(1)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": float("inf")}, "loss is inf"),
        ({"norm": float("nan")}, "norm of the trained parameters is nan"),
    ],
)
def test_numbers_that_are_none_end_the_run(bad, what):
    meter = Meter()
    for metrics in (step_metrics(), step_metrics(**bad), step_metrics(**bad)):
        meter.add(metrics, examples=1)
    with pytest.raises(RunError, match=f"{what} at step 9: lower LEARNING_RATE"):
        meter.record(10)
