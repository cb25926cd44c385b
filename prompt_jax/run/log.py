"""What a run reports: `metrics.jsonl` (the truth), a progress bar or plain lines."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from prompt_jax import hosts
from prompt_jax.errors import RunError, UserError, reading
from prompt_jax.objective.loss import Per
from prompt_jax.paths import is_local
from prompt_jax.run.observe import Observer, Opened
from prompt_jax.run.speed import Speed, compile_clock, memory

PUBLISH_SECONDS = 10.0  # between two writes of the whole file
PAUSES = (1.0, 4.0)  # seconds before it is tried again
NEVER_INFINITE = {"loss": "loss", "trainable_norm": "norm of the trained parameters"}


class MetricsLog:
    """Records of a run, one JSON object per line, each with `step` and `kind`.

    Opening it at a step drops every record after that step, so that a resumed run tells one story.
    The best is sought among evaluations of what is `scored`: {"task", "split", ...} of a record.
    Where files cannot be appended to (buckets), the file is written anew: every PUBLISH_SECONDS,
    after each evaluation, with each checkpoint, and at the end. Where that fails, it is tried again
    a little later. Observers see every record that is written.
    """

    def __init__(
        self,
        model_dir: epath.Path,
        start_step: int,
        scored: Mapping[str, Any] | None = None,
        observers: Sequence[Observer] = (),
    ):
        self.path = model_dir / "metrics.jsonl"
        self.records = [r for r in read_metrics(model_dir) if r["step"] <= start_step]
        self.scored = dict(scored or {})
        self._say: Callable[[str], None] = print
        self._published, self._waiting = -math.inf, False
        self._write_all()
        self.observers = observers if hosts.writes() else ()

    def _write_all(self):
        if not hosts.writes():
            return
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        partial = self.path.parent / "metrics.partial"
        if is_local(self.path):
            partial.write_text(text)
            partial.replace(self.path)
        else:
            self.path.write_text(text)

    def write(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if not hosts.writes():
            return
        if is_local(self.path):
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        else:
            self._waiting = True
            if time.monotonic() - self._published > PUBLISH_SECONDS:
                self._publish()
        for observer in self.observers:
            observer.log(record)

    def flush(self) -> None:
        """Every record is in the file, or a line says why not."""
        for pause in (*PAUSES, None):
            if not self._waiting or self._publish() or pause is None:
                return
            time.sleep(pause)

    def _publish(self) -> bool:
        """Writes all records to a bucket; whether that went well."""
        self._published = time.monotonic()
        try:
            self._write_all()
        except Exception as error:  # each client of a bucket has its own
            first = str(error).partition("\n")[0]
            self._say(f"{self.path} is not written yet ({type(error).__name__}: {first})")
            return False
        self._waiting = False
        return True

    def evaluation(self, record: dict[str, Any], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Writes the record of an evaluation, whose predictions observers see."""
        self.write(record)
        self.flush()
        for observer in self.observers:
            observer.evaluated(record, predictions)

    def evaluation_at(self, step: int) -> dict[str, Any] | None:
        """The record of the evaluation at a step, if there is one."""
        records = [r for r in self.records if r["kind"] == "eval" and r["step"] == step]
        return records[-1] if records else None

    def best(self, metric: str, direction: str) -> tuple[float, int] | None:
        """The best (value, step) so far; ties go to the earlier step."""
        sign = 1 if direction == "max" else -1
        scored = [
            (record[metric], record["step"])
            for record in self._evaluations()
            if metric in record and not math.isnan(record[metric])
        ]
        return max(scored, key=lambda pair: (sign * pair[0], -pair[1])) if scored else None

    def beats(self, value: float, metric: str, direction: str) -> bool:
        """Whether a new value is better than every one so far; a tie or NaN is not."""
        best = self.best(metric, direction)
        if best is None:
            return not math.isnan(value)
        return value > best[0] if direction == "max" else value < best[0]

    def evaluations_since_best(self, metric: str, direction: str) -> int:
        """How many evaluations there were after the best one; all, if none gave a number."""
        best = self.best(metric, direction)
        after = -1 if best is None else best[1]
        return sum(record["step"] > after for record in self._evaluations())

    def _evaluations(self) -> list[dict[str, Any]]:
        """The records of evaluations of what is `scored` now."""
        return [
            record
            for record in self.records
            if record["kind"] == "eval"
            and all(record.get(name) == value for name, value in self.scored.items())
        ]

    def start(self, opened: Opened) -> None:
        self._say = opened.say
        for observer in self.observers:
            observer.start(opened)

    def close(self) -> None:
        """The run has ended or was left."""
        self.flush()
        for observer in self.observers:
            observer.finished()


def read_metrics(model_dir) -> list[dict[str, Any]]:
    """All whole records of a run; a last line cut short by a kill is left out."""
    path = epath.Path(model_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    records = []
    with reading(path, "remove that line, or take another --model_dir") as place:
        for place.line, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            if line:
                records.append(_record(json.loads(line.decode("utf-8"))))
    return records


def _record(value: Any) -> dict[str, Any]:
    """A record as it was read; ValueError for what no run writes."""
    if not isinstance(value, dict):
        raise ValueError(f"holds {type(value).__name__}, not a record")
    if type(value.get("step")) is not int or not isinstance(value.get("kind"), str):
        raise ValueError("is a record without a whole `step` and a `kind`")
    return value


class Meter:
    """Gathers the metrics of steps on the device and turns them into a record when asked."""

    def __init__(self, speed: Speed | None = None):
        self.speed = speed
        self._pending: list[dict[str, jax.Array]] = []
        self._examples = self._text_tokens = 0
        self._compiled = compile_clock().state  # at the last record
        self.waited = 0.0  # seconds of the steps that were spent waiting for their batches
        self.restart_clock()

    def add(self, metrics: dict[str, jax.Array], examples: int, tokens: int = 0) -> None:
        """A step's metrics, and how many examples and tokens of text its rows hold."""
        self._pending.append(metrics)
        self._examples += examples
        self._text_tokens += tokens

    def wait(self) -> None:
        """Returns once the latest step is done (keeps the device at most a few steps behind)."""
        if len(self._pending) > 2:
            jax.block_until_ready(self._pending[-3]["loss"])

    def record(self, step: int) -> dict[str, Any] | None:
        """The means since the last call; None if there was no step.

        Raises:
          RunError: a loss, or the trained parameters, are not finite any more.
        """
        if not self._pending:
            return None
        pending = jax.device_get(self._pending)
        for back, metrics in zip(reversed(range(len(pending))), pending, strict=True):
            for name, what in NEVER_INFINITE.items():
                if not math.isfinite(metrics[name]):
                    raise RunError(
                        f"the {what} is {metrics[name]} at step {step - back}: lower LEARNING_RATE "
                        "and run again with another --model_dir; nothing after the last checkpoint "
                        "was saved"
                    )
        n, seconds = len(pending), time.perf_counter() - self._since
        record: dict[str, Any] = {"step": step, "kind": "train"}
        per = {name: m.of for name, m in pending[0].items() if isinstance(m, Per)}
        for name in pending[0]:
            record[name] = sum(float(metrics[name]) for metrics in pending) / n
        for name, of in per.items():
            record[name] /= max(record[of], 1e-9)
        record["loss_per_token"] = record["loss"] / max(record["tokens"], 1e-9)
        record["examples"] = self._examples / n
        record["seconds_per_step"] = seconds / n
        record["examples_per_second"] = self._examples / seconds
        record["input_share"] = min(self.waited / seconds, 1.0)
        record |= self._speed(n, seconds)
        self._pending, self._examples, self._text_tokens, self.waited = [], 0, 0, 0.0
        self.restart_clock()
        return record

    def _speed(self, steps: int, seconds: float) -> dict[str, float]:
        """Tokens a second, inputs and targets, and share of the peak, both without the time of
        compiling; that time since the last record, evaluations included; memory."""
        (compiling, programs), (before, made) = compile_clock().state, self._compiled
        computing = max(seconds - (compiling - self._compiling), 1e-9)
        record = {"compile_seconds": compiling - before, "compiled_programs": programs - made}
        self._compiled = (compiling, programs)
        record["tokens_per_second"] = self._text_tokens / computing
        if self.speed is not None:
            record |= self.speed.utilisation(computing / steps)
        return record | memory()

    def restart_clock(self) -> None:
        self._since = time.perf_counter()
        self._compiling = compile_clock().seconds  # at the start of the clock


class Screen:
    """What a person sees: a bar with loss, examples/s and ETA; plain lines where no terminal is."""

    def __init__(self, show: bool, start: int, total: int):
        show = show and hosts.writes()
        self.console = Console(file=sys.stderr, quiet=not show, soft_wrap=True, highlight=False)
        self.start, self.total, self.began = start, total, time.perf_counter()
        self.last_line = 0.0
        self.progress = None
        if show and self.console.is_terminal:
            self.progress = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.description}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.progress.add_task("", total=total, completed=start)
            self.progress.start()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False)

    def step(self, record: dict[str, Any]) -> None:
        step = record["step"]
        text = (
            f"loss {record['loss_per_token']:.4f}/token  accuracy {record['accuracy']:.3f}  "
            f"{record['examples_per_second']:.0f} examples/s  "
            f"{record['tokens_per_second']:.0f} tokens/s"
        )
        if self.progress:
            self.progress.update(self.task, completed=step, description=text)
            return
        now = time.perf_counter()
        if now - self.last_line > 5 or step == self.total:
            self.last_line = now
            left = (now - self.began) / max(step - self.start, 1) * (self.total - step)
            self.say(f"step {step}/{self.total}  {text}  ETA {left / 60:.1f} min")

    def close(self) -> None:
        if self.progress:
            self.progress.stop()


def check_best_metric(metric: tuple[str, str], metrics: dict[str, Any]) -> None:
    """Refuses a BEST_METRIC that the evaluation does not give."""
    name = metric[0]
    if name not in metrics:
        known = ", ".join(sorted(k for k, v in metrics.items() if isinstance(v, float)))
        raise UserError(
            f"BEST_METRIC = {name!r}", "the evaluation does not give it", f"it gives: {known}"
        )
