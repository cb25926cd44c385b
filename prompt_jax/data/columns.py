"""The columns that terms ask for, as arrays of a batch (`objective/columns.py`)."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from prompt_jax.data import named
from prompt_jax.data import rows as data_rows
from prompt_jax.data.contract import Batches, Source
from prompt_jax.data.packing import Row
from prompt_jax.data.source import ENCODER_FEATURES, Data, TaskBatches
from prompt_jax.errors import UserError
from prompt_jax.objective.columns import Choices, Column, Label, Labels, Numbers, View
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.splits import typed

Arrays = dict[str, np.ndarray]


class Filler(Protocol):
    """Makes the arrays of one column for rows of one example each; [] stands for an empty row."""

    def __call__(self, rows: Sequence[Row]) -> Arrays: ...


class WithColumns:
    """The batches of a run with the columns that its terms ask for."""

    def __init__(self, batches: TaskBatches, columns: Sequence[Column], vocabulary: Any):
        self.batches = batches
        self.fillers = [filler(column, batches, vocabulary) for column in columns]

    def batch(self, step: int, rows: slice = slice(None)) -> Arrays:
        """As `TaskBatches.batch`, with the columns."""
        chosen = self.batches.plan.batch(step)[rows]
        batch = self.batches.assemble(chosen, self.batches.plan.width(step))
        for fill in self.fillers:
            batch |= fill(chosen)
        return batch

    def examples(self, step: int) -> int:
        return self.batches.examples(step)

    def describe(self) -> dict[str, Any]:
        return self.batches.describe()

    def lengths(self) -> dict[str, Any]:
        return self.batches.lengths()


def with_columns(batches: Batches, columns: Sequence[Column], vocabulary: Any) -> Batches:
    """The batches with the columns, or as they are where none is asked for.

    Raises:
      UserError: the data are no rows of a task, or a row lacks a field.
    """
    if not columns:
        return batches
    if not isinstance(batches, TaskBatches):
        raise UserError("Train.data", "a term asks for columns of rows, and this is plain text")
    return WithColumns(batches, columns, vocabulary)


def features(data: Source, layout: PromptLayout, columns: Sequence[Column]) -> Arrays:
    """A step's batch with nothing in it, columns included: shapes and dtypes."""
    if not columns or not isinstance(data, Data):
        return data.features(layout)
    rows: list[Row] = [[]] * data.batch_size
    empty = TaskBatches([], [1.0], data, layout, 0)
    batch = empty.assemble(rows)
    for column in columns:
        batch |= filler(column, empty, None)(rows)
    return batch


def filler(column: Column, batches: TaskBatches, vocabulary: Any) -> Filler:
    """What fills a column; every row of the data is looked at here."""
    if isinstance(column, View):
        return ViewFiller(column, batches, vocabulary)
    if isinstance(column, Label):
        return LabelFiller(column, batches)
    if isinstance(column, Labels):
        return LabelsFiller(column, batches)
    if isinstance(column, Choices):
        return ChoicesFiller(column, batches, vocabulary)
    return NumbersFiller(column, batches)


def _field(batches: TaskBatches, field: str, asked: str) -> list[data_rows.Column]:
    """A field of every example, task by task.

    Raises:
      UserError: a row does not have it.
    """
    for task in batches.tasks:
        for n, example in enumerate(task.examples, start=1):
            if field not in example:
                raise UserError(
                    f"task {typed(task.name)!r}",
                    f"row {n} has no field {field!r}, which {asked} asks for",
                    "add it to every row",
                )
    return [data_rows.Column(task.examples, field) for task in batches.tasks]


class ViewFiller:
    def __init__(self, column: View, batches: TaskBatches, vocabulary: Any):
        self.column, self.batches = column, batches
        texts = _field(batches, column.field, f"the view {column.name!r}")
        length = batches.data.input_length
        self.tokens = [data_rows.tokenize_texts(values, vocabulary, length) for values in texts]

    def __call__(self, rows: Sequence[Row]) -> Arrays:
        inputs = [
            [(piece.task, self.tokens[piece.task][piece.example]) for piece in row] for row in rows
        ]
        arrays = self.batches.encoder_features(inputs)
        return {f"{self.column.name}/{name}": arrays[name] for name in ENCODER_FEATURES}


class LabelFiller:
    def __init__(self, column: Label, batches: TaskBatches):
        self.column = column
        numbers = {label: n for n, label in enumerate(column.labels)}
        self.numbers: list[list[int]] = []
        for task in batches.tasks:
            targets = [example["targets"] for example in task.examples]
            for n, target in enumerate(targets, start=1):
                if target not in numbers:
                    raise UserError(
                        f"task {typed(task.name)!r}",
                        f"row {n} has the target {target!r}, none of {', '.join(column.labels)}",
                        "bind all labels of the task",
                    )
            self.numbers.append([numbers[target] for target in targets])

    def __call__(self, rows: Sequence[Row]) -> Arrays:
        labels = [self.numbers[row[0].task][row[0].example] if row else -1 for row in rows]
        return {self.column.name: np.asarray(labels, np.int32)}


class LabelsFiller:
    def __init__(self, column: Labels, batches: TaskBatches):
        self.column = column
        numbers = {label: n for n, label in enumerate(column.labels)}
        self.values = [
            np.zeros((len(task.examples), len(numbers)), np.float32) for task in batches.tasks
        ]
        for task, values in zip(batches.tasks, self.values, strict=True):
            for n, example in enumerate(task.examples):
                for label in filter(None, str(example["targets"]).split(column.separator)):
                    if label not in numbers:
                        problem = f"row {n + 1} has the label {label!r}"
                        known = f"none of {', '.join(column.labels)}"
                        remedy = "bind all labels of the task"
                        raise UserError(f"task {typed(task.name)!r}", f"{problem}, {known}", remedy)
                    values[n, numbers[label]] = 1
        count = sum(map(len, self.values))
        there = sum(values.sum(axis=0) for values in self.values) + np.zeros(len(numbers))
        self.positive = np.where(there > 0, (count - there) / np.maximum(there, 1), 1.0)

    def __call__(self, rows: Sequence[Row]) -> Arrays:
        values = np.zeros((len(rows), len(self.column.labels)), np.float32)
        for b, row in enumerate(rows):
            for piece in row:
                values[b] = self.values[piece.task][piece.example]
        positive = np.broadcast_to(self.positive.astype(np.float32), values.shape)
        return {self.column.name: values, f"{self.column.name}/positive": positive.copy()}


class ChoicesFiller:
    """The decoder's features of the choices that are not the target."""

    def __init__(self, column: Choices, batches: TaskBatches, vocabulary: Any):
        self.column, self.batches = column, batches
        texts = {
            choice: None
            for task in batches.tasks
            for example in task.examples
            for choice in named.choices_in(task.name, example)
        }
        self.tokens = dict(zip(texts, self._tokens(list(texts), vocabulary), strict=True))
        for task in batches.tasks:
            for n, example in enumerate(task.examples, start=1):
                self._check(task.name, n, example)

    def _tokens(self, texts: list[str], vocabulary: Any) -> Sequence[np.ndarray]:
        limit = self.batches.data.target_length
        return data_rows.tokenize_texts(texts, vocabulary, limit) if texts else []

    def _check(self, task: str, number: int, example: data_rows.Example) -> None:
        """UserError for an example whose target is no choice, or whose choices have no room."""
        if example["targets"] not in named.choices_in(task, example):
            problem = f"row {number} has the target {example['targets']!r}, none of its choices"
            raise UserError(
                f"task {typed(task)!r}", problem, "correct the row, or leave the term out"
            )
        need = self._need(self._others(task, example))
        if need > self.column.columns and not self.column.skip_longer:
            raise UserError(
                f"task {typed(task)!r}",
                f"the choices beside the target of row {number} take {need} columns of "
                f"{self.column.columns}",
                f"give the terms width = {need} or more, or skip_longer = True",
            )

    def _others(self, task: str, example: data_rows.Example) -> list[np.ndarray]:
        choices = dict.fromkeys(named.choices_in(task, example))
        return [self.tokens[choice] for choice in choices if choice != example["targets"]]

    def _need(self, texts: Sequence[np.ndarray]) -> int:
        return sum(len(text) + self.batches.layout.decoder for text in texts)

    def __call__(self, rows: Sequence[Row]) -> Arrays:
        targets: list[list[tuple[int, np.ndarray]]] = []
        for row in rows:
            texts = [
                (piece.task, text)
                for piece in row
                for task in [self.batches.tasks[piece.task]]
                for text in self._others(task.name, task.examples[piece.example])
            ]
            fits = self._need([text for _, text in texts]) <= self.column.columns
            targets.append(texts if fits else [])
        arrays = self.batches.decoder_features(targets, self.column.columns)
        segments = arrays["decoder_segment_ids"]
        arrays["decoder_source_segment_ids"] = np.minimum(segments, 1)
        weights = (arrays["decoder_target_tokens"] > 0).astype(np.float32)
        features: Arrays = {**arrays, "decoder_loss_weights": weights}
        return {f"{self.column.name}/{name}": value for name, value in features.items()}


class NumbersFiller:
    def __init__(self, column: Numbers, batches: TaskBatches):
        self.column = column
        asked = f"the column {column.name!r}"
        fields = [_field(batches, field, asked) for field in column.fields]
        try:
            self.values = [
                np.stack([np.asarray(list(column), np.float32) for column in columns], axis=1)
                for columns in zip(*fields, strict=True)
            ]
        except (TypeError, ValueError):
            names = ", ".join(column.fields)
            raise UserError(f"column {column.name!r}", f"{names}: not all are numbers") from None

    def __call__(self, rows: Sequence[Row]) -> Arrays:
        values = np.zeros((len(rows), len(self.column.fields)), np.float32)
        for b, row in enumerate(rows):
            for piece in row:
                values[b] = self.values[piece.task][piece.example]
        return {self.column.name: values}
