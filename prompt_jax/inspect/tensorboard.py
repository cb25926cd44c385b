"""TensorBoard: the numbers of metrics.jsonl, and examples of predictions as text."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from prompt_jax.paths import is_local
from prompt_jax.run.observe import Opened, Record

EXAMPLES, LONGEST = 16, 400  # rows of predictions, and characters of a text
FLUSH_SECONDS, PUBLISH_SECONDS = 30.0, 60.0


class TensorBoard:
    """Writes `MODEL_DIR/tensorboard`, from the first record on.

    A bucket cannot be appended to: there the file of events is kept in a temporary folder, and
    copied whole after each evaluation, every PUBLISH_SECONDS, and at the end.
    """

    def __init__(self):
        self._opened: Opened | None = None
        self._writer: _Events | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._flushed = self._published = 0.0

    def start(self, opened: Opened) -> None:
        if not is_local(opened.folder):
            try:
                self._scratch = tempfile.TemporaryDirectory(prefix="prompt_jax_tensorboard_")
            except OSError as error:
                opened.say(f"TensorBoard is left out: {error.strerror}")
                return
        self._opened = opened

    def log(self, record: Record) -> None:
        if self._opened is None:
            return
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._open().number(f"{record['kind']}/{name}", value, record["step"])
        if self._writer is not None and time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()
        if time.monotonic() - self._published > PUBLISH_SECONDS:
            self._publish()

    def evaluated(self, record: Record, predictions: Sequence[Record]) -> None:
        if self._opened is not None and predictions:
            self._open().text("predictions", table(predictions[:EXAMPLES]), record["step"])
        if self._writer is not None:
            self._flush()
        self._publish()

    def finished(self) -> None:
        self._publish()
        if self._writer is not None:
            self._writer.file.close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._writer = self._opened = self._scratch = None

    def _open(self) -> "_Events":
        if self._writer is None:
            assert self._opened is not None
            folder = str(self._opened.folder / "tensorboard")
            if self._scratch is not None:
                folder = self._scratch.name
            self._writer = _Events(folder, self._opened.start + 1)
        return self._writer

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._writer is not None:
            self._writer.file.flush()

    def _publish(self) -> None:
        """Copies what was written so far to the bucket, if the run is in one."""
        if self._scratch is None or self._opened is None:
            return
        self._published = time.monotonic()
        self._flush()
        target = self._opened.folder / "tensorboard"
        try:
            target.mkdir(parents=True, exist_ok=True)
            for file in Path(self._scratch.name).iterdir():
                (target / file.name).write_bytes(file.read_bytes())
        except Exception as error:  # each client of a bucket has its own
            first = str(error).partition("\n")[0]
            self._opened.say(f"{target} is not written ({type(error).__name__}: {first})")


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """tensorboardX imports torch where that is installed, for seconds, only to know its tensors."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]


class _Events:
    """A file of events, written in the thread that trains: what goes wrong is met there.

    (tensorboardX's own `SummaryWriter` writes in a thread, whose errors end nothing and print
    themselves again when the process exits.)
    """

    def __init__(self, folder: str, start: int):
        """`start`: TensorBoard hides what a file before this one has from this step on."""
        with without_torch():
            from tensorboardX.event_file_writer import EventsWriter

        self._proto: Any = import_module("tensorboardX.proto.event_pb2")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = EventsWriter(f"{folder}/events")
        proto = self._proto
        began = proto.SessionLog(status=proto.SessionLog.START)
        self.file.write_event(proto.Event(step=start, wall_time=time.time(), session_log=began))

    def number(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._write(scalar(name, value), step)

    def text(self, name: str, text: str, step: int) -> None:
        from tensorboardX import summary

        self._write(summary.text(name, text), step)

    def _write(self, summary: Any, step: int) -> None:
        event = self._proto.Event(step=step, wall_time=time.time(), summary=summary)
        self.file.write_event(event)


def table(predictions: Sequence[Record]) -> str:
    """Rows of predictions as a table in Markdown.

    >>> print(table([{"inputs": "a | b", "targets": "yes", "prediction": "no"}]))
    | inputs | targets | prediction |
    |---|---|---|
    | a &#124; b | yes | no |
    """
    columns = ("inputs", "targets", "prediction")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in predictions]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return short.replace("|", "&#124;")
