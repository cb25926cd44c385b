"""Benchmarks as their publishers hand them out: official files, else prepared TFDS.

The folder that PROMPT_JAX_DATA_DIR names is searched when data are read: first for the official
file (`superglue/CB/train.jsonl`, `glue/SST-2/train.tsv`, each also with .gz), then for the prepared
TFDS data set (`super_glue/cb/1.0.2`, or the same under `tfds/`). Nothing is downloaded unless
PROMPT_JAX_ALLOW_DOWNLOAD=1.
"""

import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.jsonl import parse_row
from prompt_jax.metrics_text import UNLABELLED, Metric
from prompt_jax.tasks.text import RowsSource, add_task


@dataclass(frozen=True)
class Benchmark:
    """One data set of a benchmark.

    Attributes:
      prefix: T5's name of the task, the first word of its inputs.
      fields: the text fields of a row, in the order in which T5 writes them.
      labels: the official label of each class, in the order of the class ids.
      choices: the target text of each class.
      folder: where the official files are, below the data folder.
      files: the official file of each split.
      tfds: name and pinned version of the TFDS builder.
      home: where the official files are handed out.
    """

    prefix: str
    fields: tuple[str, ...]
    labels: tuple[str | bool | int, ...]
    choices: tuple[str, ...]
    folder: str
    files: Mapping[str, str]
    tfds: str
    home: str


def register(name: str, data: Benchmark, metrics: Sequence[Metric]) -> None:
    """Registers `name`, with T5's prefix, and `taskless_NAME`, without it."""
    source = RowsSource(lambda split: read_split(data, split), tuple(data.files), describe(data))
    for task, prefix in ((name, data.prefix), (f"taskless_{name}", None)):
        add_task(task, source, [text_form(data, prefix)], metrics, data.choices)


def describe(data: Benchmark) -> str:
    """Where the data come from, in a line."""
    return f"{data.folder} (official files) or TFDS {data.tfds}"


def text_form(data: Benchmark, prefix: str | None) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A SeqIO preprocessor to T5's form "PREFIX field: text field: text" and the label's text.

    It keeps `idx` and `label`; a row without a label (-1) gets the target `<unk>` (Raffel et al.
    2020, appendix D, and T5's own SuperGLUE tasks).
    """
    targets = (UNLABELLED, *data.choices)
    start = [prefix] if prefix else []

    def render(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        parts = [part for field in data.fields for part in (f"{field}:", row[field])]
        return {
            "inputs": tf.strings.join([*start, *parts], separator=" "),
            "targets": tf.gather(tf.constant(targets), row["label"] + 1),
            "label": row["label"],
            "idx": row["idx"],
        }

    return lambda dataset: dataset.map(render, num_parallel_calls=tf.data.AUTOTUNE)


def read_split(data: Benchmark, split: str) -> list[dict]:
    """Rows with the text fields, `label` (class id, -1 if there is none) and `idx`.

    UserError names the wanted file and how to get it.
    """
    root = os.environ.get("PROMPT_JAX_DATA_DIR")
    wanted = f"{data.folder}/{data.files[split]}"
    if root:
        for path in (epath.Path(root) / wanted, epath.Path(root) / f"{wanted}.gz"):
            if path.is_file():
                return read_file(data, path)
        for tfds_dir in (epath.Path(root) / "tfds", epath.Path(root)):
            if (tfds_dir / data.tfds.replace(":", "/")).is_dir():
                return read_tfds(data, split, str(tfds_dir), download=False)
    if os.environ.get("PROMPT_JAX_ALLOW_DOWNLOAD") == "1":
        return read_tfds(data, split, f"{root}/tfds" if root else None, download=True)
    where = f"the data folder {root} has neither" if root else "PROMPT_JAX_DATA_DIR is not set: no"
    raise UserError(
        f"{where} {wanted} nor TFDS {data.tfds}; get the file from {data.home} and name its folder "
        "by PROMPT_JAX_DATA_DIR, or set PROMPT_JAX_ALLOW_DOWNLOAD=1 to let TFDS download it"
    )


def read_file(data: Benchmark, path: epath.Path) -> list[dict]:
    """The rows of an official JSONL or TSV file, plain or gzip; UserError names file and line."""
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    header = numbered.pop(0)[1].decode().split("\t") if numbered and ".tsv" in path.name else None
    if not numbered:
        raise UserError(f"{path}: no rows; get the file again from {data.home}")
    rows = []
    for number, line in numbered:
        try:
            record = parse_row(line, data.fields) if header is None else _tsv_record(header, line)
            rows.append(_row(data, {"idx": len(rows), **record}))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    return rows


def _tsv_record(header: list[str], line: bytes) -> dict[str, str]:
    cells = line.decode("utf-8").split("\t")
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under the {len(header)} of the header; no quoting")
    return dict(zip(header, cells, strict=True))


def _row(data: Benchmark, record: dict) -> dict:
    """The text fields and idx of a record, and its label as a class id; ValueError if unknown."""
    absent = [field for field in data.fields if field not in record]
    if absent:
        raise ValueError(f"no field '{absent[0]}'; the row has {', '.join(record)}")
    if "label" in record and record["label"] not in data.labels:
        known = ", ".join(json.dumps(label) for label in data.labels)
        raise ValueError(f"label {json.dumps(record['label'])} is none of {known}")
    label = data.labels.index(record["label"]) if "label" in record else -1
    return {**{key: record[key] for key in data.fields}, "label": label, "idx": record["idx"]}


def read_tfds(data: Benchmark, split: str, data_dir: str | None, download: bool) -> list[dict]:
    """The rows of a TFDS set in `data_dir` (None: TFDS's own), prepared first if `download`."""
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder(data.tfds, data_dir=data_dir)
    if download:
        builder.download_and_prepare()
    if split not in builder.info.splits:
        has = ", ".join(builder.info.splits)
        raise UserError(f"TFDS {data.tfds} in {data_dir} has no split '{split}'; it has {has}")
    rows = []
    for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)):
        texts = {field: example[field].decode("utf-8") for field in data.fields}
        rows.append({**texts, "label": int(example["label"]), "idx": int(example["idx"])})
    return rows
