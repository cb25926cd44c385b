"""Tasks by name. Files of rows and synthetic rows are read here; all others are SeqIO's.

SeqIO and TensorFlow take seconds to import and hundreds of megabytes, so that nothing here imports
them for a task that needs neither.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from etils import epath

from prompt_jax import synthetic
from prompt_jax.data.slices import sliced
from prompt_jax.errors import UserError
from prompt_jax.filerows import file_task
from prompt_jax.metrics.text import Metric, accuracy
from prompt_jax.splits import names_folder, names_rows, typed

if TYPE_CHECKING:
    import seqio


@dataclass(frozen=True)
class PlainTask:
    """A task that is scored by accuracy and read without SeqIO.

    Attributes:
      source: where it is read from.
      rows: split -> its rows.
      choices: its labels; () where it has none.
    """

    name: str
    source: str
    splits: Sequence[str]
    rows: Callable[[str], Iterable[dict]]
    choices: tuple[str, ...]
    metric_fns: ClassVar[Sequence[Callable[..., Any]]] = (accuracy,)
    predict_metric_fns: ClassVar[Sequence[Callable[..., Any]]] = (accuracy,)
    predict_with_aux_metric_fns: ClassVar[Sequence[Callable[..., Any]]] = ()
    score_metric_fns: ClassVar[Sequence[Callable[..., Any]]] = ()
    metric_objs: ClassVar[Sequence[Any]] = ()

    def postprocess_fn(self, decoded_model_output: Any, **postprocess_kwargs: Any) -> Any:
        """The text as it is."""
        return decoded_model_output

    def stream(self, split: str) -> Iterator[dict]:
        """The examples of a split; UserError when they are asked for, if there are none."""
        empty = True
        for row in self.rows(split):
            empty = False
            yield row
        if empty:
            raise UserError(
                f"task {typed(self.name)!r}", f"its split '{split}' is empty", "check it"
            )


_opened: dict[str, PlainTask] = {}  # by the names that they are registered under


def plain(name: str) -> PlainTask | None:
    """The task of that name where it needs no SeqIO: a file or folder of rows, or synthetic rows.

    A folder has a `/` in its name, since a bare name may be a task's.
    """
    if name in _opened:
        return _opened[name]
    made = _plain(name)
    if made is not None:
        _opened[made.name] = made
    return made


def _plain(name: str) -> PlainTask | None:
    if synthetic.names(name):
        rows = synthetic.parse(name)
        return PlainTask(name, "random words", rows.splits, rows.read, rows.choices)
    if "+" in name and not epath.Path(name.rpartition("?")[0] or name).exists():
        return None
    if names_rows(name) or (os.sep in name and names_folder(name)):
        task = file_task(name)
        return PlainTask(task.name, str(task), task.splits, task.read, task.choices)
    return None


def sub_tasks(name: str) -> "Sequence[PlainTask | seqio.Task]":
    """The tasks of a mixture, sorted by name, or the one task itself."""
    task = plain(name)
    if task is not None:
        return [task]
    from prompt_jax.tasks import text

    return text.sub_tasks(name)


def stream_examples(name: str, split: str) -> Mapping[str, Iterator[dict]]:
    """The examples of a split, or of a part of it such as `train[:500]`, by task name, in source
    order (`tasks.text.stream_examples`)."""
    whole, part = sliced(split)
    streams = _whole_split(name, whole)
    if part is None:
        return streams
    return {
        task: part.of(stream, f"task '{task}', split {split!r}") for task, stream in streams.items()
    }


def _whole_split(name: str, split: str) -> Mapping[str, Iterator[dict]]:
    task = plain(name)
    if task is None:
        from prompt_jax.tasks import text

        return text.stream_examples(name, split)
    if split not in task.splits:
        has = f"it has {', '.join(task.splits)}"
        raise UserError(f"task {typed(name)!r}", f"has no split '{split}'", has)
    return {task.name: task.stream(split)}


def mixture_rates(name: str) -> Mapping[str, float]:
    """The mixing rate of each task of a mixture (not normalised); 1.0 for a single task."""
    task = plain(name)
    if task is not None:
        return {task.name: 1.0}
    from prompt_jax.tasks import text

    return text.mixture_rates(name)


def shortfalls(name: str, split: str) -> list[str]:
    """A line for each task of which less was read than was published."""
    if plain(name) is not None:
        return []
    from prompt_jax.tasks import text

    return text.shortfalls(name, sliced(split)[0])


def files_of(name: str) -> str:
    """What a task that is named by a file or folder is read from; "" for other names."""
    task = plain(name)
    if task is not None:
        return "" if synthetic.names(name) else task.source
    from prompt_jax.tasks import text

    return text.files_of(name)


def choices_of(name: str) -> tuple[str, ...]:
    """The label strings of a task, by any name that it has; () where there are none."""
    task = plain(name)
    if task is not None:
        return task.choices
    from prompt_jax.tasks import text

    return text.choices_of(name)


def registered_choices(name: str) -> tuple[str, ...]:
    """The label strings of one task by its own name; () where there are none."""
    if name in _opened:
        return _opened[name].choices
    from prompt_jax.tasks.text import CHOICES

    return CHOICES.get(name, ())


def choices_in(name: str, example: Mapping[str, Any]) -> tuple[str, ...]:
    """What may be answered to an example of one task by its own name: its own `choices`, else the
    task's.

    Raises:
      UserError: there are none.
    """
    choices = tuple(example.get("choices", registered_choices(name)))
    if not choices:
        raise no_choices(name)
    return choices


def no_choices(task: str) -> UserError:
    """What is wrong with a task that has no choices."""
    return UserError(
        f"task {typed(task)!r}",
        "has no choices",
        "declare choices=..., give its examples a list `choices`, or generate without them",
    )


def piece_metrics(name: str) -> tuple[Callable[[Callable[[str], list]], Metric], ...]:
    """Metrics over the pieces of the backbone's vocabulary, of one task by its own name."""
    if name in _opened:
        return ()
    from prompt_jax.tasks.text import PIECE_METRICS

    return PIECE_METRICS.get(name, ())
