"""TensorBoard: the numbers of metrics.jsonl, and examples of predictions as text."""

from collections.abc import Sequence
from typing import Any

from prompt_jax.paths import is_local
from prompt_jax.run.observe import Opened, Record

EXAMPLES, LONGEST = 16, 400  # rows of predictions, and characters of a text


class TensorBoard:
    """Writes `MODEL_DIR/tensorboard`, from the first record on; nothing where the folder is in a
    bucket."""

    def __init__(self):
        self._opened: Opened | None = None
        self._writer: Any = None

    def start(self, opened: Opened) -> None:
        self._opened = opened if is_local(opened.folder) else None

    def log(self, record: Record) -> None:
        if self._opened is None:
            return
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._open().add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def evaluated(self, record: Record, predictions: Sequence[Record]) -> None:
        if self._opened is not None and predictions:
            self._open().add_text("predictions", table(predictions[:EXAMPLES]), record["step"])

    def finished(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = self._opened = None

    def _open(self) -> Any:
        if self._writer is None:
            assert self._opened is not None
            from tensorboardX import SummaryWriter

            folder, after = str(self._opened.folder / "tensorboard"), self._opened.start + 1
            self._writer = SummaryWriter(folder, purge_step=after, flush_secs=30)
        return self._writer


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
