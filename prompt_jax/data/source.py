"""From a SeqIO task's text to the arrays of a step.

Tasks give text; the backbone's vocabulary makes tokens of it; examples are laid out with their
prompt columns, packed into rows (or one to a row), and rows become T5X's features:

  encoder_input_tokens, encoder_segment_ids, encoder_prompt_slots, encoder_task_ids   int32 [B, T]
  decoder_input_tokens, decoder_target_tokens, decoder_segment_ids,
  decoder_prompt_slots, decoder_task_ids                                              int32 [B, S]
  decoder_loss_weights                                                              float32 [B, S]

T = INPUT_LENGTH + prompt rows, S = TARGET_LENGTH + decoder prompt rows.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from prompt_jax.data import shots, token_cache
from prompt_jax.data.demonstrations import Demonstrations, prepended
from prompt_jax.data.packing import Row, RowPlan
from prompt_jax.errors import Setting, UserError
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.layout import PromptLayout, decoder_slots, encoder_slots, place
from prompt_jax.settings import settings


class Batches(Protocol):
    """The data of a run: the rows of any step, and what is known of them."""

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]: ...

    def examples(self, step: int) -> int: ...

    def describe(self) -> dict[str, Any]: ...


@settings
class Data:
    """What a run trains on.

    Attributes:
      task: a SeqIO task or mixture, or a path that ends in `.jsonl` or `.parquet`.
      input_length: tokens of text per row of the encoder, EOS included; the prompt is extra.
      target_length: tokens per row of the decoder, EOS included.
      batch_size: rows per step over all devices.
      packed: several examples to a row, each with its own copy of the prompt; False: one to a row.
      split: what is trained on.
      max_examples: only the first so many of each task, in the source's order.
      examples_per_class: k-shot: so many of every target of a task, drawn by `sample_seed`.
      sampled_examples: so many examples of a task, whatever their targets, drawn by `sample_seed`.
      sample_seed: of the draw; a smaller k with the same seed takes some of the same examples.
      demonstrations: so many solved examples of the task before each input, within
        `input_length`; the run's evaluation has as many (`demonstrations.py`).
      demonstration_seed: which ones.
    """

    task: str
    input_length: int
    target_length: int
    batch_size: int
    packed: bool = True
    split: str = "train"
    max_examples: int | None = None
    examples_per_class: int | None = None
    sampled_examples: int | None = None
    sample_seed: int = 0
    demonstrations: int = 0
    demonstration_seed: int = 0

    def check(self):
        limits = ("max_examples", "examples_per_class", "sampled_examples")
        for name in ("input_length", "target_length", "batch_size", *limits):
            if vars(self)[name] is not None and vars(self)[name] < 1:
                raise UserError(Setting("Data", name, vars(self)[name]), remedy="give at least 1")
        if self.examples_per_class and self.sampled_examples:
            raise UserError(
                Setting("Data", "sampled_examples", self.sampled_examples),
                "Data.examples_per_class is given too",
                "leave one out",
            )
        for name in ("sample_seed", "demonstrations", "demonstration_seed"):
            if vars(self)[name] < 0:
                raise UserError(Setting("Data", name, vars(self)[name]), remedy="give 0 or more")

    def read(self, training: "Data | None" = None) -> "TaskText":
        """Every example of the split as text: what can be checked before any weight is read.

        `training`: the data that demonstrations are drawn from; None: these themselves.
        """
        from prompt_jax.tasks import text

        read = self._sampled()
        shown = Demonstrations()
        if self.demonstrations:
            source = training or self
            drawn = read if training is None else source._sampled()
            pool = {name: examples[: source.max_examples] for name, examples in drawn.items()}
            shown = Demonstrations(self.demonstrations, self.demonstration_seed, pool)
        return TaskText(self, read, text.mixture_rates(self.task), shown)

    def _sampled(self) -> dict[str, list[dict[str, Any]]]:
        from prompt_jax.tasks import text

        by_task = text.load_examples(self.task, self.split)
        return {name: self.sample(name, examples) for name, examples in by_task.items()}

    def sample(self, task: str, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The examples that k-shot training keeps of a task's, in their order; else all."""
        if self.examples_per_class:
            return shots.per_class(examples, self.examples_per_class, self.sample_seed, task)
        if self.sampled_examples:
            return shots.whatever(examples, self.sampled_examples, self.sample_seed, task)
        return examples

    def features(self, layout: PromptLayout) -> dict[str, np.ndarray]:
        """A step's batch with nothing in it: the shapes and dtypes, for which no data are read."""
        rows = [[]] * self.batch_size
        return TaskBatches([], [1.0], self, layout, 0).assemble(rows)

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> "TaskBatches":
        """Reads and tokenises the split; the result answers for any step."""
        return self.read().open(vocabulary, layout, seed)


@dataclass(frozen=True)
class TaskText:
    """The examples of a split by task, and the rate at which each task is mixed in."""

    data: Data
    by_task: dict[str, list[dict[str, Any]]]
    rates: dict[str, float]
    shown: Demonstrations = Demonstrations()  # noqa: RUF009 (frozen)

    def tokenized(self, vocabulary) -> list["TokenizedTask"]:
        """Every task's tokens, demonstrations included."""
        length, tasks = self.data.input_length, []
        for name in self.by_task:
            task = tokenize(name, self._kept(name), vocabulary, self.data)
            if self.shown.count:
                before = self.shown.of(name, task.examples)
                inputs, dropped = prepended(task.inputs, before, vocabulary, length)
                task = dataclasses.replace(task, inputs=inputs, dropped_demonstrations=dropped)
            tasks.append(task)
        return tasks

    def asked(self) -> list[list[str]]:
        """The inputs of every task as text, with their demonstrations."""
        return [
            ["".join([*before, e["inputs"]]) for before, e in zip(shown, examples, strict=True)]
            for name in self.by_task
            for examples in [self._kept(name)]
            for shown in [self.shown.of(name, examples)]
        ]

    def digest(self) -> str:
        """SHA-256 of all that is read: inputs with demonstrations, targets, rates of tasks."""
        total = hashlib.sha256()
        for name, inputs in zip(self.by_task, self.asked(), strict=True):
            examples = self._kept(name)
            rows = [[text, str(e["targets"])] for text, e in zip(inputs, examples, strict=True)]
            total.update(json.dumps([name.split(":")[:2], self.rates[name], rows]).encode())
        return total.hexdigest()

    def _kept(self, name: str) -> list[dict[str, Any]]:
        return self.by_task[name][: self.data.max_examples]

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> "TaskBatches":
        tasks = self.tokenized(vocabulary)
        rates = [self.rates[task.name] for task in tasks]
        return TaskBatches(tasks, rates, self.data, layout, seed)


@dataclass(frozen=True)
class TokenizedTask:
    """A task's examples as tokens: int32 arrays that end in EOS, and how many were cut short."""

    name: str
    examples: list[dict[str, Any]]
    inputs: list[np.ndarray]
    targets: list[np.ndarray]
    truncated_inputs: int
    truncated_targets: int
    dropped_demonstrations: int = 0


def tokenize(name: str, examples, vocabulary, data) -> TokenizedTask:
    """Encodes `inputs` and `targets` and appends EOS; longer ones are cut before it, as in T5X.

    `data` gives `input_length` and `target_length`. A feature that is an array of integers already
    is taken as tokens of the backbone's vocabulary.
    """
    if vocabulary is None:
        raise UserError(
            f"task {name!r}",
            "is text; the backbone has no vocabulary",
            "bind VOCABULARY in a recipe, give --vocabulary=FILE.model to eval",
        )
    columns = {side: [example[side] for example in examples] for side in ("inputs", "targets")}
    inputs, cut_inputs = tokenize_texts(columns["inputs"], vocabulary, data.input_length)
    targets, cut_targets = tokenize_texts(columns["targets"], vocabulary, data.target_length)
    return TokenizedTask(name, list(examples), inputs, targets, cut_inputs, cut_targets)


def tokenize_texts(values: Sequence, vocabulary, length: int) -> tuple[list[np.ndarray], int]:
    """int32 arrays of up to `length` tokens that end in EOS, and how many were cut."""
    texts = [value for value in values if isinstance(value, str)]
    encoded = iter(token_cache.encoded(texts, vocabulary))
    arrays, cut = [], 0
    for value in values:
        ids = next(encoded) if isinstance(value, str) else np.asarray(value)
        ids = ids[:-1] if len(ids) and ids[-1] == EOS else ids
        cut += len(ids) > length - 1
        arrays.append(np.append(ids[: length - 1].astype(np.int32), np.int32(EOS)))
    return arrays, cut


class TaskBatches:
    """The batches of a run over one or several tokenised tasks."""

    def __init__(self, tasks: list[TokenizedTask], rates, data: Data, layout: PromptLayout, seed):
        self.tasks, self.data, self.layout = tasks, data, layout
        for task in tasks:
            _ = layout.rows(task.name)  # a task without rows of its own is named at once
        self.capacity = (data.input_length + layout.columns, data.target_length + layout.decoder)
        columns = [
            np.array(
                [
                    (len(i) + layout.columns, len(t) + layout.decoder)
                    for i, t in zip(task.inputs, task.targets, strict=True)
                ]
            )
            for task in tasks
        ]
        self.plan = RowPlan(columns, rates, self.capacity, data.batch_size, seed, data.packed)

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The features of one step (counted from 0), or of some of its rows."""
        return self.assemble(self.plan.batch(step)[rows])

    def examples(self, step: int) -> int:
        """How many examples all rows of a step hold."""
        return sum(map(len, self.plan.batch(step)))

    def assemble(self, rows: list[Row]) -> dict[str, np.ndarray]:
        """Arrays of the given rows; what they do not fill is 0 everywhere."""
        T, S = self.capacity
        batch: dict[str, np.ndarray]
        batch = {name: np.zeros((len(rows), T), np.int32) for name in ENCODER_FEATURES}
        batch |= {name: np.zeros((len(rows), S), np.int32) for name in DECODER_FEATURES}
        for b, row in enumerate(rows):
            encoder_at = decoder_at = 0
            for segment, piece in enumerate(row, start=1):
                task = self.tasks[piece.task]
                features = self._encoder(task.inputs[piece.example], segment, piece.task)
                encoder_at = _write(batch, b, encoder_at, features)
                features = self._decoder(task.targets[piece.example], segment, piece.task)
                decoder_at = _write(batch, b, decoder_at, features)
        batch["decoder_loss_weights"] = (batch["decoder_target_tokens"] > 0).astype(np.float32)
        return batch

    def _encoder(self, tokens, segment: int, task: int) -> dict[str, np.ndarray]:
        slots = encoder_slots(tokens, self.layout, self.tasks[task].name)
        columns = (place(tokens, slots), np.full_like(slots, segment), slots)
        return dict(zip(ENCODER_FEATURES, (*columns, np.full_like(slots, task)), strict=True))

    def _decoder(self, targets, segment: int, task: int) -> dict[str, np.ndarray]:
        slots = decoder_slots(len(targets), self.layout)
        shifted = np.concatenate([[0], targets[:-1]]).astype(np.int32)
        tokens = (place(shifted, slots), place(targets, slots))
        columns = (*tokens, np.full_like(slots, segment), slots, np.full_like(slots, task))
        return dict(zip(DECODER_FEATURES, columns, strict=True))

    def describe(self) -> dict[str, Any]:
        """Counts for the log: examples, truncation, and how full the first rows are."""
        rows = self.plan.batch(0)
        used = sum(int(self.plan.columns[p.task][p.example][0]) for row in rows for p in row)
        dropped = sum(task.dropped_demonstrations for task in self.tasks)
        shown = {"dropped_demonstrations": dropped} if self.data.demonstrations else {}
        return {
            "tasks": {task.name: len(task.inputs) for task in self.tasks},
            "truncated_inputs": sum(task.truncated_inputs for task in self.tasks),
            "truncated_targets": sum(task.truncated_targets for task in self.tasks),
            **shown,
            "examples_per_row": sum(map(len, rows)) / len(rows),
            "fill_rate": used / (len(rows) * self.capacity[0]),
        }


ENCODER_FEATURES = (
    "encoder_input_tokens",
    "encoder_segment_ids",
    "encoder_prompt_slots",
    "encoder_task_ids",
)
DECODER_FEATURES = (
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_segment_ids",
    "decoder_prompt_slots",
    "decoder_task_ids",
)


def _write(batch, row: int, at: int, features: dict[str, np.ndarray]) -> int:
    end = at
    for name, values in features.items():
        end = at + len(values)
        batch[name][row, at:end] = values
    return end
