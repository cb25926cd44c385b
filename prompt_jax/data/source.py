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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prompt_jax.data import named
from prompt_jax.data.packing import Row, RowPlan, row_length
from prompt_jax.data.rows import Rows
from prompt_jax.data.split import OfTasks, Sampling, Shown, Split, TaskText
from prompt_jax.errors import Setting, UserError
from prompt_jax.prompt.layout import PromptLayout, decoder_slots, encoder_slots, place
from prompt_jax.settings import at_least, settings


@settings
class Data:
    """What a run trains on.

    Attributes:
      task: a SeqIO task or mixture, a file of rows (`splits`), a folder of them, or `synthetic`.
      input_length: tokens of text per row of the encoder, EOS included; the prompt is extra.
      target_length: tokens per row of the decoder, EOS included.
      batch_size: rows per step over all devices.
      packed: several examples to a row, each with its own copy of the prompt; False: one to a row.
      buckets: where examples are not packed, ascending columns of text: rows of a step are of one
        bucket and as wide as that, and each width is compiled once. (): all are as wide as a row.
      row_length: columns of text in a row of the encoder. None: `input_length`; packed with a
        prompt that is computed once, what costs least for texts as long as these.
      few_tasks: each step has examples of few tasks of a mixture, two to all, drawn by their rates,
        in equal parts (MPT); False: each example's task is drawn. Needs `packed = False`.
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
    row_length: int | None = None
    buckets: tuple[int, ...] = ()
    few_tasks: bool = False
    split: str = "train"
    max_examples: int | None = None
    examples_per_class: int | None = None
    sampled_examples: int | None = None
    sample_seed: int = 0
    demonstrations: int = 0
    demonstration_seed: int = 0

    def check(self):
        sizes = {
            "input_length": self.input_length,
            "target_length": self.target_length,
            "batch_size": self.batch_size,
            "row_length": self.row_length,
            "max_examples": self.max_examples,
            "examples_per_class": self.examples_per_class,
            "sampled_examples": self.sampled_examples,
        }
        at_least("Data", 1, sizes)
        ascending = list(self.buckets) == sorted(set(self.buckets))
        if self.buckets and (self.packed or not ascending or self.buckets[0] < 1):
            raise UserError(
                Setting("Data", "buckets", self.buckets),
                remedy="give ascending columns, as in (32, 64, 128), and bind Data.packed = False",
            )
        if self.few_tasks and (self.packed or self.buckets):
            other = "packed" if self.packed else "buckets"
            raise UserError(
                Setting("Data", "few_tasks", self.few_tasks),
                f"needs rows of one example each, and Data.{other} is on",
                "bind Data.packed = False and no buckets",
            )
        if self.examples_per_class and self.sampled_examples:
            raise UserError(
                Setting("Data", "sampled_examples", self.sampled_examples),
                "Data.examples_per_class is given too",
                "leave one out",
            )
        counts = {
            "sample_seed": self.sample_seed,
            "demonstrations": self.demonstrations,
            "demonstration_seed": self.demonstration_seed,
        }
        at_least("Data", 0, counts)

    @property
    def examples(self) -> Split:
        """The examples that are trained on."""
        return Split(
            self.task,
            self.split,
            (self.input_length, self.target_length),
            Sampling(
                self.examples_per_class, self.sampled_examples, self.sample_seed, self.max_examples
            ),
            Shown(self.demonstrations, self.demonstration_seed),
        )

    def read(self) -> "DataText":
        """Every example of the split as text: what can be checked before any weight is read."""
        return DataText(self, self.examples.read())

    def features(self, layout: PromptLayout) -> dict[str, np.ndarray]:
        """A step's batch with nothing in it: the shapes and dtypes, for which no data are read."""
        rows = [[]] * self.batch_size
        return TaskBatches([], [1.0], self, layout, 0).assemble(rows)

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> "TaskBatches":
        """Reads and tokenises the split; the result answers for any step."""
        return self.read().open(vocabulary, layout, seed)

    def choices(self) -> tuple[str, ...]:
        """The label strings of the task; () where there are none."""
        return named.choices_of(self.task)

    def title(self) -> str:
        """What is trained on, in a few words."""
        return f"tasks of {self.task}"

    def fact(self) -> str:
        """The data as checkpoints of version 0.1 name them; newer fields are in `identity.json`."""
        values = dataclasses.asdict(self)
        named = {name: values[name] for name in IN_CHECKPOINTS} | self.demonstrated()
        return f"Data({', '.join(f'{name}={value!r}' for name, value in named.items())})"

    def shown(self, task: str) -> Shown:
        """As many demonstrations as in training, drawn from what is trained on."""
        if not self.demonstrations:
            return Shown()
        source = dataclasses.replace(self, task=task).examples
        return Shown(self.demonstrations, self.demonstration_seed, source)

    def demonstrated(self) -> dict[str, int]:
        """The demonstrations as a prompt's manifest names them; {} where there are none."""
        if not self.demonstrations:
            return {}
        return {
            "demonstrations": self.demonstrations,
            "demonstration_seed": self.demonstration_seed,
        }


IN_CHECKPOINTS = (
    "task",
    "input_length",
    "target_length",
    "batch_size",
    "packed",
    "split",
    "max_examples",
    "examples_per_class",
    "sampled_examples",
    "sample_seed",
)


@dataclass(frozen=True)
class DataText(OfTasks):
    """The examples of `Data` as text."""

    data: Data
    text: TaskText

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> "TaskBatches":
        """Tokenises; the result answers for any step."""
        rates = list(self.text.rates.values())
        return TaskBatches(self.text.rows(vocabulary), rates, self.data, layout, seed)


class TaskBatches:
    """The batches of a run over one or several tokenised tasks."""

    def __init__(self, tasks: list[Rows], rates, data: Data, layout: PromptLayout, seed):
        self.tasks, self.data, self.layout = tasks, data, layout
        for task in tasks:
            _ = layout.rows(task.name)  # a task without rows of its own is named at once
        prompt = np.array([layout.columns, layout.decoder])
        columns = [task.lengths + prompt for task in tasks]
        decoder = data.target_length + layout.decoder
        self.capacity = (self._row_length(columns, decoder) + layout.columns, decoder)
        T = self.capacity[0]
        edges = [edge for n in data.buckets if (edge := n + layout.columns) < T]
        edges = [*edges, T] if data.buckets else []
        if data.few_tasks and len(tasks) == 1:
            problem = f"{tasks[0].name} is one task"
            raise UserError(Setting("Data", "few_tasks", True), problem, "name a mixture, as A+B")
        shape = (self.capacity, data.batch_size)
        self.plan = RowPlan(columns, rates, *shape, seed, data.packed, edges, data.few_tasks)

    def _row_length(self, columns: list[np.ndarray], decoder: int) -> int:
        """Columns of text in a row; UserError where a text is longer than the recipe's rows."""
        data, lengths = self.data, [task.lengths[:, 0] for task in self.tasks if len(task)]
        longest = max((int(of_task.max()) for of_task in lengths), default=0)
        if data.row_length is None:
            if self.layout.computed_once and data.packed and longest:
                return row_length(np.concatenate(columns), data.input_length, decoder)
            return data.input_length
        if longest > data.row_length:
            raise UserError(
                Setting("Data", "row_length", data.row_length),
                f"a text has {longest} tokens",
                f"give {longest} or more, or INPUT_LENGTH = {data.row_length} to cut texts",
            )
        return data.row_length

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The features of one step (counted from 0), or of some of its rows."""
        return self.assemble(self.plan.batch(step)[rows], self.plan.width(step))

    def examples(self, step: int) -> int:
        """How many examples all rows of a step hold."""
        return sum(map(len, self.plan.batch(step)))

    def assemble(self, rows: list[Row], width: int | None = None) -> dict[str, np.ndarray]:
        """Arrays of the given rows, `width` columns in the encoder (None: as many as a row has);
        what they do not fill is 0 everywhere."""
        T, S = self.capacity
        T = width or T
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

    def encoder_features(
        self, rows: Sequence[Sequence[tuple[int, np.ndarray]]]
    ) -> dict[str, np.ndarray]:
        """The encoder's features of rows of (task, tokens), laid out as `assemble` does."""
        shape = (len(rows), self.capacity[0])
        features = {name: np.zeros(shape, np.int32) for name in ENCODER_FEATURES}
        for b, row in enumerate(rows):
            at = 0
            for segment, (task, tokens) in enumerate(row, start=1):
                at = _write(features, b, at, self._encoder(tokens, segment, task))
        return features

    def decoder_features(
        self, rows: Sequence[Sequence[tuple[int, np.ndarray]]], columns: int
    ) -> dict[str, np.ndarray]:
        """The decoder's features of rows of (task, tokens), in so many columns."""
        features = {name: np.zeros((len(rows), columns), np.int32) for name in DECODER_FEATURES}
        for b, row in enumerate(rows):
            at = 0
            for segment, (task, tokens) in enumerate(row, start=1):
                at = _write(features, b, at, self._decoder(tokens, segment, task))
        return features

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
            "fill_rate": used / (len(rows) * self.plan.width(0)),
        }

    def lengths(self) -> dict[str, Any]:
        """{task: {"examples": N, "inputs": `spread`, "targets": `spread`}}, in tokens with EOS."""
        data = self.data
        return {
            task.name: {
                "examples": len(task.inputs),
                "inputs": spread(task.lengths[:, 0], task.truncated_inputs, data.input_length),
                "targets": spread(task.lengths[:, 1], task.truncated_targets, data.target_length),
            }
            for task in self.tasks
        }


def spread(counts: np.ndarray, truncated: int, limit: int) -> dict[str, Any]:
    """Tokens of texts: the median, the 95th percentile and the longest, all as cut to `limit`."""
    shares = np.percentile(counts if len(counts) else [0], (50, 95, 100)).astype(int).tolist()
    return {"percentiles": shares, "limit": limit, "truncated": truncated}


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
