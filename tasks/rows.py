"""Tasks whose targets are texts of their own: summaries, answers, descriptions, referents.

A `form` turns a record of a file (or a TFDS example) into rows with `inputs`, `targets` and what
else the task keeps; lists of texts are kept as such.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_jax.errors import UserError, reading
from prompt_jax.tasks.layouts import Record
from prompt_jax.tasks.official import DataSet, locate, named_records, read_tfds, source_of
from prompt_jax.tasks.text import RowsSource, add_task

Row = dict[str, Any]
Form = Callable[[Record], Iterable[Row]]


def tfds_only(
    name: str,
    splits: Mapping[str, int],
    licence: str,
    note: str = "",
    tfds_splits: Mapping[str, str] | None = None,
) -> DataSet:
    """A set that is read from a prepared TFDS folder alone; `splits`: {split: published rows}."""
    home = f"https://www.tensorflow.org/datasets/catalog/{re.split('[/:]', name)[0]}"
    return DataSet(
        folder="tfds",
        files=dict.fromkeys(splits, ()),
        home=home,
        tfds=name,
        licence=licence,
        sizes=splits,
        tfds_splits=tfds_splits or {},
        note=note,
    )


def register_rows(
    name: str,
    data: DataSet,
    forms: Form | Mapping[str, Form],
    metrics: Sequence[Callable],
    prefix: str,
    postprocess: Callable | None = None,
    gather: Callable[[list[Row], str], list[Row]] | None = None,
    choices: Sequence[str] | None = None,
) -> None:
    """Registers `name`, whose inputs begin with `prefix`, and `taskless_NAME` without it.

    Args:
      forms: a record -> its rows; or that for each split.
      gather: (all rows of a split, split) -> the rows of the task.
      choices: the targets, if they are labels.
    """

    def source(start: str) -> RowsSource:
        def read(split: str) -> list[Row]:
            form = forms[split] if isinstance(forms, Mapping) else forms
            rows = list(read_rows(data, split, form))
            rows = rows if gather is None else gather(rows, split)
            return [{**row, "inputs": start + row["inputs"]} for row in rows]

        return source_of(data, read, len if gather is None else None)

    add_task(name, source(f"{prefix} " if prefix else ""), [], metrics, choices, postprocess)
    if prefix:
        add_task(f"taskless_{name}", source(""), [], metrics, choices, postprocess)


def read_rows(data: DataSet, split: str, form: Form) -> Iterator[Row]:
    """The rows of a split, with `idx` counted if the form gives none.

    UserError names the file and the line of a record that the form does not understand.
    """
    count = 0
    for where, record in _records(data, split):
        with reading(where, f"get the data again from {data.home}"):
            try:
                for row in form(record):
                    yield {"idx": count, **row}
                    count += 1
            except KeyError as error:
                has = f"there are {', '.join(record)}"
                raise UserError(where, f"no field {error}", has) from None
    if not count:
        raise UserError(f"{data.folder}, split '{split}'", "has no rows", f"see {data.home}")


def _records(data: DataSet, split: str) -> Iterator[tuple[str, Record]]:
    place = locate(data, split)
    if isinstance(place, tuple):
        for path, _, number, record in named_records(data, *place):
            yield f"{path}:{number}", record
    else:
        for number, example in enumerate(read_tfds(data, split, place), start=1):
            yield f"TFDS {data.tfds} {split} example {number}", data.from_tfds(_python(example))


def _python(value: Any) -> Any:
    """A TFDS example as texts, lists, dicts and numbers."""
    if isinstance(value, dict):
        return {key: _python(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray | np.generic):
        return _python(value.tolist())
    return [_python(inner) for inner in value] if isinstance(value, list) else value
