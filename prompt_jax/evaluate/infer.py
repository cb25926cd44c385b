"""Offline inference: a JSONL file in, a JSONL file with predictions out, in the same order.

Rows are answered window by window and appended by one write each, so that a killed run leaves whole
lines and the same command goes on after them. Beside the output, `OUTPUT.settings.json` says what
made it; a run with other settings is refused.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from prompt_jax.answer.answerer import Answer, Answerer, Answering, Question
from prompt_jax.answer.output import Output
from prompt_jax.data.rows import tokenize_texts
from prompt_jax.errors import Preempted, UserError, reading
from prompt_jax.evaluate.opening import Opening
from prompt_jax.evaluate.prompts import head_of, model_of, module_of
from prompt_jax.hosts.stop import Stopped, stop_signal
from prompt_jax.jsonl import check_text, numbered_lines, parse_row
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model import quantised, sharding
from prompt_jax.prompt import computed
from prompt_jax.prompt.layout import PromptLayout

WRITTEN = ("row", "prediction", "score", "scores")  # what the output adds to a row
WINDOW = 16  # batches whose rows are written together
SHOW_EVERY = 5.0  # seconds between lines of progress


def infer(
    asked: Opening,
    input: str,
    output: str,
    *,
    answering: Answering = Answering(),  # noqa: B008 (frozen)
    choices: Sequence[str] = (),
    shard: str = "0/1",
    batch_size: int = 32,
    show: bool = False,
) -> dict[str, Any]:
    """Writes every row of `input` with `row`, `prediction` and `score` (ranking: also `scores`).

    `asked` is the backbone, with one prompt or none. Rows have `inputs`, and for ranking `choices`
    unless they are given here. `shard` "i/n" answers the i-th of n equal parts, counted from 0,
    into a file of its own; their concatenation is the whole. Rows that are there already are
    checked and skipped.

    Raises:
      UserError: a bad row, or an output that something else made.
      Preempted: after SIGTERM, with all finished windows written.
    """
    rows = read_rows(input, answering, tuple(choices))
    first, last, output = shard_of(shard, len(rows), output)
    mesh = sharding.MeshShape().build()
    saved, limits, loaded = asked.prompts, asked.limits, asked.load(mesh)
    layout = saved[0].layout if saved else PromptLayout()
    _ = layout.rows(None)  # a prompt of several tasks is refused before anything is written
    if loaded.vocabulary is None:
        raise UserError(
            f"backbone {asked.backbone!r}",
            "infer reads text, and it has no vocabulary",
            "give --vocabulary=FILE.model",
        )
    answerer = Answerer(loaded.vocabulary, layout, mesh, limits, batch_size, answering)
    settings = {
        "shard": shard,
        "prompt": saved[0].manifest.get("sha256", saved[0].path) if saved else None,
        "backbone": loaded.digest,
        "dtype": asked.dtype,
        "weights_dtype": loaded.weights_dtype or quantised.PLAIN,
        "lengths": list(limits),
        "how": answering.record(),
    }
    with Output(output, settings, "--output") as out, stop_signal() as stop:
        done = out.check(rows[first:last], first)
        left = rows[first + done : last]
        ids = tokenize_texts([row["inputs"] for row in left], loaded.vocabulary, limits[0])
        window = WINDOW * answerer.batch_size
        questions = [
            Question(ids[i], 0, tuple(row.get("choices", choices)), i // window, first + done + i)
            for i, row in enumerate(left)
        ]
        progress = Progress(last - first, done, show)
        module = (
            module_of(saved, loaded.model, computed.weights_of(loaded)) if saved else FixedPrompt()
        )
        by_head = answering.mode == "head"
        model = model_of(loaded, module, mesh, head_of(saved[0]) if by_head else None)
        try:
            for start, answers in windows(answerer.stream(model, questions, stop.check), window):
                lines = [
                    answered(left[start + i], first + done + start + i, answer)
                    for i, answer in enumerate(answers)
                ]
                out.append(lines)
                progress.add(len(lines))
        except Stopped:
            raise Preempted(
                f"preempted: {progress.done} of {last - first} rows are in {output}; run the same "
                "command to go on"
            ) from None
    report = {"output": output, "rows": last - first, "answered": len(left), "skipped": done}
    return report | {"truncated_inputs": ids.cut}


def read_rows(path: str, answering: Answering, choices: tuple[str, ...]) -> list[dict]:
    """The rows of a JSONL file with `inputs`; UserError "FILE:LINE: what"."""
    rows = []
    with reading(path) as place:
        for place.line, line in numbered_lines(path):
            row = parse_row(line, ("inputs",))
            if taken := [name for name in WRITTEN if name in row]:
                raise ValueError(f"has {taken[0]!r}, a field that the output gets; rename it")
            if answering.mode == "rank" or answering.constrained:
                _check_choices(row.get("choices", choices))
            rows.append(row)
    if not rows:
        raise UserError(path, "no rows", "write one JSON object with inputs a line")
    return rows


def _check_choices(choices: Any) -> None:
    if not isinstance(choices, list | tuple) or not choices:
        raise ValueError("no choices; give --choice, or the row a list 'choices'")
    for choice in choices:
        check_text("choices", choice)


def shard_of(shard: str, rows: int, output: str) -> tuple[int, int, str]:
    """First row, last row (exclusive) and file of the shard "i/n".

    >>> shard_of("1/4", 10, "out.jsonl")
    (2, 5, 'out-00001-of-00004.jsonl')
    """
    part, _, parts = shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UserError(f"--shard={shard}", remedy="give I/N with I from 0 to N - 1")
    i, n = int(part), int(parts)
    if n > 1:
        stem, dot, end = output.rpartition(".")
        output = f"{stem if dot else end}-{i:05d}-of-{n:05d}{dot + end if dot else ''}"
    return i * rows // n, (i + 1) * rows // n, output


def windows(
    stream: Iterator[tuple[list[int], list[Answer]]], size: int
) -> Iterator[tuple[int, list[Answer]]]:
    """(number of its first question, answers in order) of each full window, and of the rest."""
    waiting: dict[int, Answer] = {}
    start = 0
    for numbers, answers in stream:
        if numbers[0] // size > start // size:
            yield start, [waiting[i] for i in sorted(waiting)]
            start, waiting = numbers[0] // size * size, {}
        waiting |= dict(zip(numbers, answers, strict=True))
    if waiting:
        yield start, [waiting[i] for i in sorted(waiting)]


def answered(row: dict, number: int, answer: Answer) -> dict:
    """A row of the output: that of the input with WRITTEN."""
    output = {**row, "row": number, "prediction": answer.text, "score": answer.score}
    return output if answer.scores is None else output | {"scores": answer.scores}


class Progress:
    """Rows done, rows a second and the time left, on standard error."""

    def __init__(self, total: int, done: int, show: bool):
        self.total, self.done, self.show = total, done, show
        self.start, self.began = done, time.perf_counter()
        self.shown = self.began

    def add(self, rows: int) -> None:
        self.done += rows
        now = time.perf_counter()
        if self.show and (now - self.shown > SHOW_EVERY or self.done == self.total):
            self.shown = now
            rate = (self.done - self.start) / max(now - self.began, 1e-9)
            left = (self.total - self.done) / rate / 60
            print(
                f"rows {self.done}/{self.total}  {rate:.1f} rows/s  ETA {left:.1f} min",
                file=sys.stderr,
                flush=True,
            )
