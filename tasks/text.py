"""Tasks of plain text: how they are declared, found and read.

A task here is a SeqIO task whose `inputs` and `targets` stay strings: the vocabulary belongs to the
backbone, so the trainer tokenises afterwards. A task of one's own is a few lines in a module that
`--tasks_module` names:

    from prompt_jax.metrics_text import accuracy
    from prompt_jax.tasks.text import jsonl_task

    files = {"train": "reviews.train.jsonl", "validation": "reviews.dev.jsonl"}
    jsonl_task("reviews", files, metrics=[accuracy], choices=("good", "bad"))

Any SeqIO task whose output features are TEXT_FEATURES works as well.
"""

import difflib
import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from prompt_jax.errors import UserError, reading
from prompt_jax.filerows import FileRows, file_task, held_out, rank, where_of
from prompt_jax.jsonl import TEXT_KEYS
from prompt_jax.metrics.text import Metric, accuracy
from prompt_jax.splits import ENDINGS, names_folder, names_rows, typed
from prompt_jax.tasks import mixtures

tf.config.set_visible_devices([], "GPU")  # TensorFlow reads files here; devices are JAX's

BUNDLED_MODULES = (
    "glue",
    "superglue",
    "superglue_spans",
    "classification",
    "text2text",
    "multiple_choice",
    "raft",
    "transfer",
    "wiki_lingua",
    "xtreme",
    "nano_mixture",
    "nano_attend_mixture",
    "mnano_mixture",
    "cross_lingual",
    "emoji_topic",
    "cldr_names",
    "quickstart",
)
SPLITS = ("train", "validation", "test")  # in this order
READ_BATCH = 512  # rows that TensorFlow is given at a time, and that leave it
TYPES = {str: tf.string, bool: tf.bool, int: tf.int64, float: tf.float64}

# The label strings of a classification task, by task name, in the order of its class ids.
CHOICES: dict[str, tuple[str, ...]] = {}

# Metrics over the pieces of the backbone's vocabulary, by task name: (its `encode`) -> the metric.
PIECE_METRICS: dict[str, tuple[Callable[[Callable[[str], list]], Metric], ...]] = {}


TEXT_FEATURES = {
    key: seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.string, rank=0)
    for key in TEXT_KEYS
}


class RowsSource(seqio.DataSource):
    """A SeqIO source over rows that a Python function reads when the data are asked for.

    Args:
      read: split -> rows (dicts of scalars, or lists of texts, with the same keys), in source
        order.
      splits: the splits that `read` knows.
      description: where the data come from, for `tasks list`, and the licence of the data.
      rows: how many records a split has, as published.
      count: the rows of a split -> how many published records they are of; None: not known.
      where: the file or folder that a split is read from, None if it is not at hand; without it a
        split can be read whenever it is asked for.
      version: of the data.
    """

    def __init__(
        self,
        read: Callable[[str], list[dict] | FileRows],
        splits: Sequence[str],
        description: str,
        licence: str = "",
        rows: Mapping[str, int] | None = None,
        where: Callable[[str], str | None] | None = None,
        version: str = "",
        count: Callable[[Any], int] | None = len,
    ) -> None:
        super().__init__(splits=splits)
        self._read = read
        self._description = description
        self.licence = licence
        self.rows = rows
        self.version = version
        self._where = where
        self._count = count
        self._given: dict[str, int] = {}  # rows of each split when they were read last
        self._records: dict[str, int] = {}  # published records that those are of, where known

    def present(self) -> list[str]:
        """The splits that can be read from where the data folder points now."""
        return [split for split in self.splits if self.where(split) is not None]

    def where(self, split: str) -> str | None:
        """What a split would be read from now; None if it is not at hand."""
        return self._description if self._where is None else self._where(split)

    def shortfall(self, split: str) -> str:
        """ "3 of 1000 published rows" where fewer were read last than were published; else ""."""
        published, read = (self.rows or {}).get(split, 0), self._records.get(split)
        fewer = read is not None and read < published
        return f"{read} of {published} published rows" if fewer else ""

    def __repr__(self) -> str:
        return self._description

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        """How many rows `get_dataset` gave last, which SeqIO asks after it; else they are read."""
        return self._given[split] if split in self._given else len(self._read(split))

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """The rows of a split; `sequence_length`, `use_cached` and `num_epochs` are SeqIO's own."""
        rows = self._read(split)
        self._given[split] = len(rows)
        if self._count is not None:
            self._records[split] = self._count(rows)
        dataset = _dataset_of_files(rows) if isinstance(rows, FileRows) else _dataset_of(rows)
        if shard_info is not None:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        return dataset.shuffle(len(rows), seed=seed) if shuffle else dataset


def _dataset_of(rows: list[dict]) -> tf.data.Dataset:
    columns: Any = {key: _column([row[key] for row in rows]) for key in rows[0]}
    return tf.data.Dataset.from_tensor_slices(columns)


def _dataset_of_files(rows: FileRows) -> tf.data.Dataset:
    """Of which no more than a batch is in memory."""
    kinds = {key: TYPES[kind] for key, kind in rows.columns.items()}

    def batches() -> Iterator[dict[str, np.ndarray]]:
        stream = iter(rows)
        while some := list(itertools.islice(stream, READ_BATCH)):
            yield {
                key: np.array([row[key].encode() for row in some], object)
                if kind is tf.string
                else np.array([row[key] for row in some], kind.as_numpy_dtype)
                for key, kind in kinds.items()
            }

    specs = {key: tf.TensorSpec([None], kind) for key, kind in kinds.items()}
    return tf.data.Dataset.from_generator(batches, output_signature=specs).unbatch()


def _column(values: list) -> Any:
    """[rows]: strings, lists of strings, or numbers in 64 bits (TensorFlow alone takes 32)."""
    if isinstance(values[0], str):
        return tf.constant(values, tf.string)
    if isinstance(values[0], list):
        return tf.ragged.constant(values, tf.string, ragged_rank=1)
    return tf.constant(np.asarray(values))


def add_task(
    name: str,
    source: RowsSource,
    preprocessors: Sequence[Callable],
    metrics: Sequence[Callable],
    choices: Sequence[str] | None,
    postprocess: Callable | None = None,
) -> seqio.Task:
    """Registers a text task with SeqIO and its label strings, if any, in CHOICES.

    `postprocess(text, example=, is_target=)` gives what the metrics compare; None: the text.
    """
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        raise UserError(f"task {typed(name)!r}", "this name is taken", "give the task another name")
    task = seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=list(preprocessors),
        output_features=TEXT_FEATURES,
        metric_fns=list(metrics),
        postprocess_fn=postprocess,
    )
    if choices is not None:
        CHOICES[name] = tuple(choices)
    return task


def jsonl_task(
    name: str,
    files: Mapping[str, str | Sequence[str]],
    metrics: Sequence[Metric] = (accuracy,),
    choices: Sequence[str] | None = None,
) -> seqio.Task:
    """Registers a task over files of rows: {split: path or paths}, from the working folder.

    JSONL, CSV, TSV, JSON, each also with `.gz`, and Parquet; `PATH?inputs=COLUMN&targets=COLUMN`.

    Rows have `inputs` and `targets` as strings. Another key is kept if every row of the file has it
    as a string, as a whole number, as a number or as true/false. `choices` are the label strings of
    a classification task. A bad line, a target outside `choices` or an empty file is a UserError
    when the split is read; choices that cannot be are one at once.
    """
    paths = {s: (p,) if isinstance(p, str) else tuple(map(str, p)) for s, p in files.items()}
    if choices is not None:
        _check_choices(name, choices)

    def known(row: dict) -> None:
        if choices is not None and (label := row["targets"]) not in choices:
            raise ValueError(
                f"the target '{label}' is none of the task's choices {', '.join(choices)}; "
                "correct it or add it to them"
            )

    def read(split: str) -> FileRows:
        return FileRows(paths[split], known)

    order = sorted(paths, key=lambda s: SPLITS.index(s) if s in SPLITS else len(SPLITS))
    described = f"rows of {', '.join(path for some in paths.values() for path in some)}"
    source = RowsSource(read, order, described, where=where_of(paths))
    return add_task(name, source, [], metrics, choices)


def _check_choices(name: str, choices: Sequence[str]) -> None:
    """UserError unless they are two or more label strings, each once."""
    if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise UserError(
            f"task {typed(name)!r}", f"choices={choices!r}", "give strings: ('good', 'bad')"
        )
    if len(choices) < 2 or len(set(choices)) < len(choices) or not all(map(str.strip, choices)):
        raise UserError(
            f"task {typed(name)!r}", f"choices={choices!r}", "give two or more, each once"
        )


def task_from_jsonl(name: str, validation: str | None = None) -> seqio.Task:
    """The task of a file or a folder of rows (`file_task`), registered on first use; scored by
    accuracy."""
    task = file_task(name, validation)
    if task.name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(task.name)
    source = RowsSource(task.read, task.splits, str(task), where=where_of(task.files))
    return add_task(task.name, source, [], [accuracy], task.choices or None)


def files_of(name: str) -> str:
    """What a task that is named by a file or folder is read from; "" for a registered name."""
    by_path = names_rows(name) or (name not in seqio.TaskRegistry.names() and names_folder(name))
    return "; ".join(str(task.source) for task in sub_tasks(name)) if by_path else ""


def choices_of(name: str) -> tuple[str, ...]:
    """The label strings of a task, by any name that `get_task` knows; () where it has none."""
    return CHOICES.get(get_task(name).name, ())


def hold_out(rows: list[dict], path: str) -> tuple[list[dict], list[dict]]:
    """(train, validation): the rows of a tenth of the distinct inputs go to validation."""
    last = held_out((row["inputs"] for row in rows), path)
    train = [row for row in rows if rank(row["inputs"]) > last]
    return train, [row for row in rows if rank(row["inputs"]) <= last]


def import_bundled() -> None:
    """Registers the tasks that come with prompt_jax."""
    for module in BUNDLED_MODULES:
        importlib.import_module(f"prompt_jax.tasks.{module}")


def get_task(name: str) -> seqio.Task | seqio.Mixture:
    """The SeqIO task or mixture of that name, or of a file or folder of rows (`splits`).

    Names with + between them are a mixture (`tasks.mixtures`). UserError with the nearest names if
    there is none.
    """
    import_bundled()
    if name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(name)
    if "+" in name and not epath.Path(name.rpartition("?")[0] or name).exists():
        members = [task for part in mixtures.parse(name)[0] for task in sub_tasks(part)]
        return mixtures.register(name, members)
    if names_rows(name):
        return task_from_jsonl(name.removeprefix("jsonl:"))
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    if names_folder(name):
        return task_from_jsonl(name)
    if epath.Path(name.rpartition("?")[0] or name).is_file():
        raise UserError(name, "a file of a kind that is not read", f"give {', '.join(ENDINGS)}")
    names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`prompt-jax tasks list` shows them"
    raise UserError(
        f"task {typed(name)!r}",
        "no such task",
        f"{hint} (a module of your own needs --tasks_module)",
    )


def sub_tasks(name: str) -> list[seqio.Task]:
    """The tasks of a mixture, sorted by name, or the one task itself."""
    task = get_task(name)
    return list(task.tasks) if isinstance(task, seqio.Mixture) else [task]


def mixture_rates(name: str) -> dict[str, float]:
    """The mixing rate of each task of a mixture (not normalised); 1.0 for a single task."""
    task = get_task(name)
    if isinstance(task, seqio.Mixture):
        return {sub.name: float(task.get_rate(sub)) for sub in task.tasks}
    return {task.name: 1.0}


def load_examples(name: str, split: str) -> dict[str, list[dict]]:
    """Every example of a split, by task name; as `stream_examples`, all in memory."""
    return {task: list(stream) for task, stream in stream_examples(name, split).items()}


def stream_examples(name: str, split: str) -> dict[str, Iterator[dict]]:
    """The examples of a split, by task name, in source order, as Python strings and numbers.

    Each has `inputs` and `targets` and what else the task keeps (`idx`, `label`, ...). As in SeqIO,
    tasks of a mixture without that split are left out. UserError if no task has the split or a task
    gives token ids in place of text; when its examples are asked for, if there are none.
    """
    tasks = sub_tasks(name)
    having = [task for task in tasks if split in task.splits]
    if not having:
        splits = dict.fromkeys(s for task in tasks for s in task.splits)
        raise UserError(
            f"task {typed(name)!r}", f"has no split '{split}'", f"it has {', '.join(splits)}"
        )
    for task in having:
        _check_text_task(task)
    return {task.name: _stream(task, split) for task in having}


def shortfalls(name: str, split: str) -> list[str]:
    """Of each task whose split `load_examples` gave short of what was published, a line."""
    sources = {task.name: task.source for task in sub_tasks(name) if split in task.splits}
    return [
        f"{typed(task)} {split}: {fewer}"
        for task, source in sources.items()
        if isinstance(source, RowsSource) and (fewer := source.shortfall(split))
    ]


def _check_text_task(task: seqio.Task) -> None:
    for key in TEXT_KEYS:
        if key not in task.output_features or task.output_features[key].dtype != tf.string:
            raise UserError(
                f"task {typed(task.name)!r}",
                f"does not give '{key}' as text",
                (
                    "declare it with output_features=prompt_jax.tasks.text.TEXT_FEATURES and "
                    "no tokenising step"
                ),
            )


def _stream(task: seqio.Task, split: str) -> Iterator[dict]:
    remedy = "mend its source and preprocessors; `inputs` and `targets` are strings"
    with reading(f"task {typed(task.name)!r}, split '{split}'", remedy):
        dataset = task.get_dataset(None, split=split, shuffle=False, use_cached=False)
        examples = _examples(dataset)
        first = next(examples, None)
    if first is None:
        raise UserError(
            f"task {typed(task.name)!r}", f"its split '{split}' is empty", "check its source"
        )
    yield first
    yield from examples


def _examples(dataset: tf.data.Dataset) -> Iterator[dict]:
    """The examples as Python values; those of scalars alone come in batches, which is faster."""
    specs: Any = dataset.element_spec
    if any(spec.shape.rank != 0 for spec in specs.values()):
        examples: Any = dataset.as_numpy_iterator()
        yield from ({key: _python(v) for key, v in example.items()} for example in examples)
        return
    batches: Any = dataset.batch(READ_BATCH).as_numpy_iterator()
    for batch in batches:
        columns = [_python(column) for column in batch.values()]
        yield from (dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True))


def _python(value: Any) -> Any:
    """A NumPy value as Python's own: text for bytes, lists for arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list):
        return [_python(item) for item in value]
    return _python(value.tolist()) if isinstance(value, np.generic | np.ndarray) else value
