"""Benchmarks as their publishers hand them out: official files, else prepared TFDS.

The folder that PROMPT_JAX_DATA_DIR names is searched when data are read: first for the official
file (`superglue/CB/train.jsonl`, `glue/SST-2/train.tsv`, each also with .gz), then for the prepared
TFDS data set (`super_glue/cb/1.0.2`, or the same under `tfds/`). Nothing is downloaded unless
PROMPT_JAX_ALLOW_DOWNLOAD=1.
"""

import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from prompt_jax.contents import read_bytes
from prompt_jax.errors import UserError, reading
from prompt_jax.metrics.text import UNLABELLED
from prompt_jax.tasks.layouts import JSONL, TSV, Layout, Record, as_number, as_whole
from prompt_jax.tasks.text import RowsSource, add_task


@dataclass(frozen=True)
class File:
    """A file that holds a split.

    Attributes:
      path: below the benchmark's folder; `path.gz` is read as well. With a `*` all files that match
        are the split, in the order of their names.
      layout: None: JSONL or TSV with a header, by the file's name.
      columns: {field, "label" or "idx": its column}, of those that are named otherwise.
      labels: the label of each class in this file, where it is not the benchmark's.
      keep: (the benchmark's folder) -> whether a record belongs to the split; None: all do.
      rest: further files, which hold the rest of the split.
    """

    path: str
    layout: Layout | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str | int, ...] | None = None
    keep: Callable[[epath.Path], Callable[[Record], bool]] | None = None
    rest: tuple["File", ...] = ()

    def read_by(self) -> Layout:
        return self.layout or (TSV if ".tsv" in self.path else JSONL)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Where a data set is.

    Attributes:
      folder: where the official files are, below the data folder.
      files: of each split the official file, or several: the first that is there is read.
      tfds: name and pinned version of the TFDS builder; "" if there is none.
      home: where the official files are handed out.
      licence: of the data.
      sizes: official number of rows of each split.
      from_tfds: a TFDS example -> the record of a row.
      tfds_splits: TFDS's name of a split, where it is another.
      version: of the official files; "": what TFDS's pinned version is made of.
      note: what else to know of the files.
    """

    folder: str
    files: Mapping[str, str | File | tuple[File, ...]]
    home: str
    tfds: str = ""
    licence: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    from_tfds: Callable[[Record], Record] = dict
    tfds_splits: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    note: str = ""

    def candidates(self, split: str) -> tuple[File, ...]:
        """The files that may hold a split, in the order in which they are looked for."""
        given = self.files[split]
        return given if isinstance(given, tuple) else (as_file(given),)

    def wanted(self, file: File) -> str:
        """The file's path below the data folder."""
        return posixpath.normpath(f"{self.folder}/{file.path}")


@dataclass(frozen=True, kw_only=True)
class Benchmark(DataSet):
    """A data set whose rows T5 writes as "PREFIX field: text field: text".

    Attributes:
      prefix: T5's name of the task, the first word of its inputs.
      fields: the text fields of a row, in the order in which T5 writes them.
      labels: the official label of each class, in the order of the class ids.
      choices: the target text of each class.
      score: in place of labels, the number that is the target, rounded to a multiple of 0.2.
      numbers: whole numbers that a row keeps beside `idx`.
    """

    prefix: str
    fields: tuple[str, ...]
    labels: tuple[str | bool | int, ...]
    choices: tuple[str, ...]
    score: str | None = None
    numbers: tuple[str, ...] = ()


def as_file(file: str | File) -> File:
    return File(file) if isinstance(file, str) else file


def register(
    name: str,
    data: Benchmark,
    metrics: Sequence[Callable],
    postprocess: Callable | None = None,
) -> None:
    """Registers `name`, with T5's prefix, and `taskless_NAME`, without it."""
    source = source_of(data, lambda split: read_split(data, split))
    choices = data.choices or None
    for task, prefix in ((name, data.prefix), (f"taskless_{name}", None)):
        add_task(task, source, [text_form(data, prefix)], metrics, choices, postprocess)


def source_of(
    data: DataSet,
    read: Callable[[str], list[dict]],
    count: Callable[[list[dict]], int] | None = len,
) -> RowsSource:
    """What `read` gives, with what `tasks list` says of the data set; `count` as `RowsSource`'s."""

    def where(split: str) -> str | None:
        return place_of(data, find(data, split, os.environ.get("PROMPT_JAX_DATA_DIR")))

    return RowsSource(
        read,
        tuple(data.files),
        describe(data),
        data.licence,
        data.sizes or None,
        where,
        version_of(data),
        count,
    )


def place_of(data: DataSet, place: tuple[File, epath.Path] | epath.Path | None) -> str | None:
    """The file, or the folder of the TFDS set, that `find` found."""
    if isinstance(place, tuple):
        return str(place[1])
    return None if place is None else str(place / data.tfds.replace(":", "/"))


def version_of(data: DataSet) -> str:
    """The version of the official files, else that of the TFDS builder."""
    return data.version or f"TFDS {data.tfds.partition(':')[2]}"


def describe(data: DataSet) -> str:
    """Where the data come from, in a line."""
    files = f"{data.folder} (official files)" if any(data.files.values()) else ""
    places = [place for place in (files, f"TFDS {data.tfds}" if data.tfds else "") if place]
    return " or ".join(places) + (f"; {data.note}" if data.note else "")


def text_form(data: Benchmark, prefix: str | None) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A SeqIO preprocessor to T5's form "PREFIX field: text field: text" and the target's text.

    It keeps `idx`, `label` (or the score) and `numbers`; a row without a label (-1) gets the target
    `<unk>` (Raffel et al. 2020, appendix D, and T5's own SuperGLUE tasks).
    """
    start = [prefix] if prefix else []
    columns = ("label" if data.score is None else data.score, "idx", *data.numbers)

    def render(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        parts = [part for field in data.fields for part in (f"{field}:", row[field])]
        return {
            "inputs": tf.strings.join([*start, *parts], separator=" "),
            "targets": target_text(data, row),
            **{key: row[key] for key in columns},
        }

    return lambda dataset: dataset.map(render, num_parallel_calls=tf.data.AUTOTUNE)


def target_text(data: Benchmark, row: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The label's text; a score has its text in the row already."""
    if data.score is not None:
        return row["targets"]
    return tf.gather(tf.constant((UNLABELLED, *data.choices)), row["label"] + 1)


def score_text(score: float) -> str:
    """A score to the nearest 0.2, half-way to even in float32 as T5 rounds; none below 0.

    >>> score_text(3.75), score_text(2.5)
    ('3.8', '2.4')
    """
    return UNLABELLED if score < 0 else f"{np.round(np.float32(score) * 5) / 5:.1f}"


def read_split(data: Benchmark, split: str) -> list[dict]:
    """Rows with the text fields, `idx`, and `label` (class id, -1 if there is none) or the score
    and its text as `targets`.

    UserError names the wanted file and how to get it.
    """
    place = locate(data, split)
    if isinstance(place, tuple):
        return read_file(data, *place, labelled=not split.startswith("test"))
    return [_tfds_row(data, data.from_tfds(example)) for example in read_tfds(data, split, place)]


def locate(data: DataSet, split: str) -> tuple[File, epath.Path] | epath.Path | None:
    """The file of a split and its path, else the folder of the TFDS set (None: TFDS's own).

    UserError if there is neither and nothing may be downloaded.
    """
    root = os.environ.get("PROMPT_JAX_DATA_DIR")
    place = find(data, split, root)
    if place is not None:
        return place
    if data.tfds and os.environ.get("PROMPT_JAX_ALLOW_DOWNLOAD") == "1":
        return epath.Path(root) / "tfds" if root else None
    where = f"data folder {root}" if root else "PROMPT_JAX_DATA_DIR"
    lacks = "has no" if root else "is not set, so there is no"
    download = "set PROMPT_JAX_ALLOW_DOWNLOAD=1 to let TFDS download it"
    if not data.files[split]:
        remedy = f"prepare it there ({data.home}), or {download}"
        raise UserError(where, f"{lacks} TFDS {data.tfds}", remedy)
    wanted = " or ".join(data.wanted(file) for file in data.candidates(split))
    remedy = f"get the file from {data.home} and name its folder by PROMPT_JAX_DATA_DIR"
    if not data.tfds:
        raise UserError(where, f"{lacks} {wanted}", remedy)
    raise UserError(where, f"{lacks} {wanted} and no TFDS {data.tfds}", f"{remedy}, or {download}")


def find(
    data: DataSet, split: str, root: str | None
) -> tuple[File, epath.Path] | epath.Path | None:
    """The file of a split and its path, else the folder of a prepared TFDS set, else None."""
    if not root:
        return None
    for file in data.candidates(split):
        path = next(iter(paths_of(epath.Path(root), data.wanted(file))), None)
        if path is not None:
            return file, path
    for folder in (epath.Path(root) / "tfds", epath.Path(root)) if data.tfds else ():
        if (folder / data.tfds.replace(":", "/")).is_dir():
            return folder
    return None


def paths_of(folder: epath.Path, pattern: str) -> list[epath.Path]:
    """The files below a folder that a path, or a pattern with `*`, names; each may end in .gz."""
    if "*" in pattern:
        return sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
    path = find_path(folder / pattern)
    return [] if path is None else [path]


def find_path(path: epath.Path) -> epath.Path | None:
    """`path` or `path.gz`, whichever is a file."""
    packed = path.parent / f"{path.name}.gz"
    return next((file for file in (path, packed) if file.is_file()), None)


def read_records(
    file: File, path: epath.Path, text: Sequence[str], home: str
) -> Iterator[tuple[int, Record]]:
    """(number of its line or entry, record) of a file; UserError names file and number."""
    layout = file.read_by()
    keep = file.keep(path.parent) if file.keep else None
    empty, entries = True, 0
    with reading(path, f"get the file again from {home}") as place:
        for place.line, unit in layout.units(read_bytes(path)):
            entries += 1
            for record in layout.records(unit, text):
                if keep is None or keep(record):
                    empty = False
                    yield place.line, record
    if empty:
        problem = f"none of its {entries} entries is a row; is their text withheld?"
        raise UserError(path, problem if entries else "no rows", f"get the file again from {home}")


def named_records(
    data: DataSet, file: File, path: epath.Path, text: Sequence[str] = ()
) -> Iterator[tuple[epath.Path, File, int, Record]]:
    """(path, file, number, record) of a file and its rest, with the columns named as fields."""
    for part, there in _parts(data, file, path):
        columns = [part.columns.get(name, name) for name in text]
        for number, record in read_records(part, there, columns, data.home):
            named = {
                name: record[column] for name, column in part.columns.items() if column in record
            }
            yield there, part, number, {**record, **named}


def _parts(data: DataSet, file: File, path: epath.Path) -> Iterator[tuple[File, epath.Path]]:
    """Every file of a split: all that match a pattern, of which `path` is one, or the rest."""
    if "*" in file.path:
        levels = file.path.partition("*")[2].count("/") + 1
        below = "/".join(file.path.split("/")[-levels:])
        yield from ((file, there) for there in paths_of(path.parents[levels - 1], below))
        return
    for part in (file, *file.rest):
        there = path if part is file else find_path(path.parent / part.path)
        if there is None:
            raise UserError(
                path.parent / part.path, f"no such file beside {path}", f"get it from {data.home}"
            )
        yield part, there


def read_file(data: Benchmark, file: File, path: epath.Path, labelled: bool) -> list[dict]:
    """The rows of an official file, plain or gzip; UserError names file and line.

    If `labelled`, a row without its label or score is an error.
    """
    rows = []
    for there, part, number, record in named_records(data, file, path, data.fields):
        with reading(f"{there}:{number}", f"get the file again from {data.home}"):
            labels = part.labels or data.labels
            rows.append(_row(data, labels, {"idx": len(rows), **record}, labelled))
    return rows


def _row(data: Benchmark, labels: Sequence, record: Record, labelled: bool) -> dict:
    """What a row keeps of a record, with its label as a class id; ValueError if it is unknown."""
    target = data.score or "label"
    needed = (*data.fields, *data.numbers, *((target,) if labelled else ()))
    absent = [name for name in needed if name not in record]
    if absent:
        raise ValueError(f"no field '{absent[0]}'; the row has {', '.join(record)}")
    row = {key: record[key] for key in (*data.fields, *data.numbers)}
    if data.score is not None:
        score = as_number(record, target, -1.0)
        return {**row, target: score, "targets": score_text(score), "idx": as_whole(record, "idx")}
    if target in record and record[target] not in labels:
        known = ", ".join(json.dumps(label) for label in labels)
        raise ValueError(f"label {json.dumps(record[target])} is none of {known}")
    label = labels.index(record[target]) if target in record else -1
    return {**row, "label": label, "idx": as_whole(record, "idx")}


def read_tfds(data: DataSet, split: str, folder: epath.Path | None) -> Iterator[Record]:
    """The examples of a TFDS set in `folder`, which is prepared first if downloads are allowed."""
    import tensorflow_datasets as tfds

    data_dir = None if folder is None else str(folder)
    builder: Any = tfds.builder(data.tfds, data_dir=data_dir)
    if os.environ.get("PROMPT_JAX_ALLOW_DOWNLOAD") == "1":
        builder.download_and_prepare()
    name = data.tfds_splits.get(split, split)
    if name not in builder.info.splits:
        has = ", ".join(builder.info.splits)
        raise UserError(
            f"TFDS {data.tfds} in {data_dir}", f"has no split '{name}'", f"it has {has}"
        )
    yield from tfds.as_numpy(builder.as_dataset(split=name, shuffle_files=False))


def _tfds_row(data: Benchmark, record: Record) -> dict:
    row = {field: record[field].decode("utf-8") for field in data.fields}
    row |= {key: int(record[key]) for key in ("idx", *data.numbers)}
    if data.score is not None:
        score = float(record["label"])
        return {**row, data.score: score, "targets": score_text(score)}
    return {**row, "label": int(record["label"])}
