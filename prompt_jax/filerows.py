"""Tasks that are files of rows: read line by line whenever they are asked for; their labels."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.jsonl import TEXT_KEYS, UNLABELLED, numbered_lines, parse_row, stream_jsonl
from prompt_jax.splits import Files, parse, registered_stem, remember, split_files

HELD_OUT = 10  # one distinct input in so many, of a file without a validation file
MOST_LABELS = 64  # a file with more distinct targets is no classification


class FileRows:
    """Some rows of files, of which no more than a batch is in memory.

    Every line is read once when this is made, and checked. A key beside `inputs` and `targets` is
    kept if every row of the file has it as a string, as a whole number, as a number or as
    true/false.

    Args:
      check: raises a ValueError for a row that cannot be.
      among: whether a row is one of these.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        check: Callable[[dict], None] = lambda row: None,
        among: Callable[[dict], bool] = lambda row: True,
    ):
        self._path, self._among = path, among
        self._count, kinds = 0, Kinds()
        for row in stream_jsonl(path, check=check):
            kinds.add(row)
            self._count += among(row)
        self._columns = kinds.columns()

    def __len__(self) -> int:
        return self._count

    @property
    def columns(self) -> Mapping[str, type]:
        """The keys that are kept, each with the type of its values, in the order of a row."""
        return self._columns

    def __iter__(self) -> Iterator[dict]:
        """The rows in the order of the file."""
        for row in filter(self._among, stream_jsonl(self._path)):
            yield {key: kind(row[key]) for key, kind in self._columns.items()}


class Kinds:
    """What the values of each key are, row by row."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}
        self._rows, self._times = 0, dict[str, int]()

    def add(self, row: dict) -> None:
        self._rows += 1
        for key in row if self._rows == 1 else self._kinds:
            if key in row:
                self._kinds.setdefault(key, set()).add(_kind(row[key]))
                self._times[key] = self._times.get(key, 0) + 1

    def columns(self) -> dict[str, type]:
        """The keys that make a column of one scalar type, in the order of the first row."""
        columns = {}
        for key, kinds in self._kinds.items():
            if key in TEXT_KEYS:
                columns[key] = str
            elif self._times[key] == self._rows and (kind := _COLUMNS.get(frozenset(kinds))):
                columns[key] = kind
        return columns


_COLUMNS = {
    frozenset({"text"}): str,
    frozenset({"truth"}): bool,
    frozenset({"whole"}): int,
    frozenset({"number"}): float,
    frozenset({"whole", "number"}): float,
}


def _kind(value: object) -> str:
    """text, truth, whole, number, or "" for what no column takes."""
    if isinstance(value, str):
        return "text" if value.isascii() or _is_utf8(value) else ""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float) and abs(value) < 2**63:
        return "whole" if isinstance(value, int) else "number"
    return ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def held_out(inputs: Iterable[str], path: str) -> int:
    """The last `rank` of validation, which gets a tenth of the distinct inputs (at least one).

    Raises:
      UserError: there is one distinct input.
    """
    ranks = np.unique(np.fromiter(map(rank, inputs), np.uint64))
    if len(ranks) < 2:
        raise UserError(path, "one distinct input cannot be split into train and validation")
    return int(ranks[max(1, round(len(ranks) / HELD_OUT)) - 1])


def rank(text: str) -> int:
    """Where a text stands in the order of SHA-256: the first eight bytes of its own."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def train_or_validation(path: Sequence[str], split: str) -> FileRows:
    """The rows of `train`, or those that are held out of it as `validation`."""
    last = held_out((row["inputs"] for row in stream_jsonl(path)), ", ".join(path))
    validation = split == "validation"
    return FileRows(path, among=lambda row: (rank(row["inputs"]) <= last) is validation)


def labels_of(files: Sequence[str]) -> tuple[str, ...]:
    """The sorted labels of files of rows; () where the targets are texts of their own.

    They are labels if there are 2 to MOST_LABELS of them and at least twice as many rows. What is
    wrong with a file is said when it is read.
    """
    counts: Counter[str] = Counter()
    try:
        for file in files:
            for _, line in numbered_lines(file):
                counts[parse_row(line)["targets"]] += 1
                if len(counts) > MOST_LABELS + 1:
                    return ()
    except (ValueError, OSError, EOFError):
        return ()
    rows = counts.total() - counts.pop(UNLABELLED, 0)
    labels = 2 <= len(counts) <= MOST_LABELS and 2 * len(counts) <= rows
    return tuple(sorted(counts)) if labels and all(map(str.strip, counts)) else ()


def where_of(files: Mapping[str, Sequence[str]]) -> Callable[[str], str | None]:
    """split -> its files, if they are there; a held-out split is of the training files."""

    def where(split: str) -> str | None:
        some = [parse(path)[0] for path in files.get(split, files.get("train", ()))]
        there = some and all(epath.Path(path).is_file() for path in some)
        return ", ".join(some) if there else None

    return where


@dataclass(frozen=True)
class FileTask:
    """A task that is named by a file or a folder of rows.

    Without a validation file a tenth of the distinct inputs (at least one, those with the smallest
    SHA-256) is held out of `train` as `validation`, so that the two never share an input.

    Attributes:
      name: that it is registered under, which says its files.
      files: of each split.
      choices: its labels (`labels_of`), () where the targets are texts of their own.
    """

    name: str
    files: Files
    choices: tuple[str, ...]

    @property
    def divided(self) -> bool:
        """Whether validation is held out of the training files."""
        return "train" in self.files and "validation" not in self.files

    @property
    def splits(self) -> list[str]:
        splits = [*self.files, *(["validation"] if self.divided else [])]
        usual = ("train", "validation", "test")
        return sorted(splits, key=lambda s: usual.index(s) if s in usual else len(usual))

    def __str__(self) -> str:
        note = ", a tenth held out as validation" if self.divided else ""
        return f"rows of {', '.join(path for some in self.files.values() for path in some)}{note}"

    def read(self, split: str) -> FileRows:
        if not self.divided or split == "test":
            return FileRows(self.files[split])
        return train_or_validation(self.files["train"], split)


def file_task(name: str, validation: str | None = None) -> FileTask:
    """The task of a file or a folder; its splits are those of `splits.split_files`."""
    files = split_files(name.removeprefix("jsonl:"), validation)
    lines = [f"{split}={'|'.join(some)}" for split, some in files.items()]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    stem = registered_stem(parse(name.removeprefix("jsonl:"))[0])
    given = tuple(f for split in files if split != "test" for f in files[split])
    registered = f"jsonl:{stem}:{digest[:8]}"
    remember(registered, name.removeprefix("jsonl:"))
    return FileTask(registered, files, labels_of(given))
