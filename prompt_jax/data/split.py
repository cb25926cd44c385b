"""A split of a task: which examples it has, what stands before them, and how long rows may be."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prompt_jax.data import named, shots
from prompt_jax.data.demonstrations import Demonstrations, before
from prompt_jax.data.rows import Column, Example, Rows, gathered, rows_of


@dataclass(frozen=True)
class Sampling:
    """Which examples of a split are taken.

    Attributes:
      examples_per_class: k-shot: so many of every target.
      sampled_examples: so many, whatever their targets.
      seed: of these draws.
      max_examples: of all these, or of all, only the first so many.
    """

    examples_per_class: int | None = None
    sampled_examples: int | None = None
    seed: int = 0
    max_examples: int | None = None

    def of(self, task: str, examples: Iterable[Example]) -> Sequence[Example]:
        """Those of one task, in their order; no more are read than need be."""
        if not self.examples_per_class and not self.sampled_examples:
            return gathered(itertools.islice(examples, self.max_examples))
        every = gathered(examples)
        if self.examples_per_class:
            targets = Column(every, "targets")
            numbers = shots.per_class(targets, self.examples_per_class, self.seed, task)
        else:
            numbers = shots.whatever(len(every), self.sampled_examples or 0, self.seed, task)
        return gathered(every[number] for number in numbers[: self.max_examples])


@dataclass(frozen=True)
class Shown:
    """The demonstrations before each example.

    Attributes:
      count: how many.
      seed: which ones.
      source: the split that they are drawn from; None: the one that they stand in.
    """

    count: int = 0
    seed: int = 0
    source: "Split | None" = None


@dataclass(frozen=True)
class Split:
    """A split of a task.

    Attributes:
      task: a SeqIO task or mixture, a file or folder of rows, or `synthetic`.
      limits: tokens of input and of target, EOS included; the prompt is extra.
    """

    task: str
    split: str
    limits: tuple[int, int]
    sampling: Sampling = Sampling()
    shown: Shown = Shown()

    def read(self) -> "TaskText":
        """Every example as text: what can be checked before any weight is read."""
        examples = self.examples()
        shown = Demonstrations()
        if self.shown.count:
            pool = examples if self.shown.source is None else self.shown.source.examples()
            shown = Demonstrations(self.shown.count, self.shown.seed, pool)
        return TaskText(self, examples, named.mixture_rates(self.task), shown)

    def examples(self) -> dict[str, Sequence[Example]]:
        """The examples by task, without demonstrations."""
        by_task = named.stream_examples(self.task, self.split)
        return {name: self.sampling.of(name, stream) for name, stream in by_task.items()}


@dataclass(frozen=True)
class TaskText:
    """The examples of a split by task, and the rate at which each task is mixed in."""

    split: Split
    examples: Mapping[str, Sequence[Example]]
    rates: Mapping[str, float]
    shown: Demonstrations

    def rows(self, vocabulary) -> list[Rows]:
        """Every task's tokens, demonstrations included."""
        limits, tasks = self.split.limits, []
        for name, examples in self.examples.items():
            rows = rows_of(name, examples, vocabulary, limits)
            if self.shown.count:
                chosen = self.shown.numbers(name, examples)
                inputs = before(rows.inputs, self.shown.pool[name], chosen, vocabulary, limits[0])
                rows = dataclasses.replace(
                    rows, inputs=inputs, dropped_demonstrations=inputs.dropped
                )
            tasks.append(rows)
        return tasks

    def shortfalls(self) -> list[str]:
        """A line for each task of which less was read than was published."""
        return named.shortfalls(self.split.task, self.split.split)

    def asked(self, task: str) -> Iterator[str]:
        """The inputs of a task as text, with their demonstrations."""
        examples = self.examples[task]
        for texts, example in zip(self.shown.texts(task, examples), examples, strict=True):
            yield "".join([*texts, example["inputs"]])

    def asked_digest(self) -> str:
        """SHA-256 of what is asked of every task, as JSON."""
        tasks = (_json_list(map(json.dumps, self.asked(name))) for name in self.examples)
        total = hashlib.sha256(b"[")
        for number, task in enumerate(tasks):
            total.update(b", " if number else b"")
            for part in task:
                total.update(part.encode())
        total.update(b"]")
        return total.hexdigest()

    def digest(self) -> str:
        """SHA-256 of all that is read: inputs with demonstrations, targets, rates of tasks."""
        total = hashlib.sha256()
        for name, examples in self.examples.items():
            about = json.dumps([name.split(":")[:2], self.rates[name]])
            total.update(about[:-1].encode() + b", ")
            pairs = zip(self.asked(name), examples, strict=True)
            rows = (json.dumps([text, str(example["targets"])]) for text, example in pairs)
            for part in _json_list(rows):
                total.update(part.encode())
            total.update(b"]")
        return total.hexdigest()


def _json_list(items: Iterable[str]) -> Iterator[str]:
    """A JSON list of JSON texts, piece by piece."""
    yield "["
    for number, item in enumerate(items):
        yield f", {item}" if number else item
    yield "]"


class OfTasks:
    """What the text of a run and that of an evaluation have in common: the rows of a `Split`."""

    text: TaskText

    @property
    def examples(self) -> Mapping[str, Sequence[Example]]:
        """The examples by task, without demonstrations."""
        return self.text.examples

    def digest(self) -> str:
        """SHA-256 of all that is read."""
        return self.text.digest()

    def shortfalls(self) -> list[str]:
        """A line for each task of which less was read than was published."""
        return self.text.shortfalls()
