"""What a run asks of its data: a source, the text it reads, and the batches made of that."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from prompt_jax.data.rows import Example
from prompt_jax.data.split import Shown
from prompt_jax.prompt.layout import PromptLayout


class Batches(Protocol):
    """The data of a run: the rows of any step, and what is known of them."""

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The features of one step, counted from 0, or of some of its rows."""
        ...

    def examples(self, step: int) -> int:
        """How many examples all rows of a step hold."""
        ...

    def describe(self) -> dict[str, Any]:
        """Counts for the log."""
        ...

    def lengths(self) -> dict[str, Any]:
        """By task, how long its texts are in tokens (`TaskBatches.lengths`); {} of a corpus."""
        ...


class Text(Protocol):
    """What was read, before any weight is."""

    @property
    def examples(self) -> Mapping[str, Sequence[Example]]:
        """The examples of each task; {} where the text is of no task."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of all that is read."""
        ...

    def shortfalls(self) -> list[str]:
        """A line for each task of which less was read than was published."""
        ...


class TrainingText(Text, Protocol):
    """Text to train on."""

    def open(self, vocabulary, layout: PromptLayout, seed: int) -> Batches:
        """Tokenises; the result answers for any step."""
        ...


@runtime_checkable
class Source(Protocol):
    """What `Train.data` may be: `Data`, a task, or `Corpus`, plain text."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # settings are dataclasses

    @property
    def task(self) -> str | None:
        """The name of the task; None where the text is of none."""
        ...

    @property
    def input_length(self) -> int: ...

    @property
    def target_length(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def read(self) -> TrainingText:
        """Reads or checks the files; UserError names the one that is wrong."""
        ...

    def features(self, layout: PromptLayout) -> dict[str, np.ndarray]:
        """A step's batch with nothing in it: the shapes and dtypes, for which no data are read."""
        ...

    def choices(self) -> tuple[str, ...]:
        """The label strings of the task; () where there are none."""
        ...

    def title(self) -> str:
        """What is trained on, in a few words."""
        ...

    def fact(self) -> str:
        """The data as checkpoints name them."""
        ...

    def shown(self, task: str) -> Shown:
        """The demonstrations before the examples of an evaluation on a task."""
        ...

    def demonstrated(self) -> dict[str, int]:
        """How many demonstrations and by which seed, as a prompt's manifest names them; {} where
        there are none."""
        ...
