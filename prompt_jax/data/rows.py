"""Examples and tokens by number, without holding what does not fit into memory.

Small splits are lists and arrays. A large one is written to an unnamed file in the machine's folder
for temporary files while it is read, and its tokens lie in the token cache: both are mapped into
memory, so that the system reads the pages that are asked for and drops them again.
"""

import itertools
import json
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prompt_jax.data import token_cache
from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS
from prompt_jax.splits import typed

Example = dict[str, Any]  # `inputs`, `targets`, and what else a task keeps

IN_MEMORY = 1 << 26  # bytes of a split that are held, about
PLACE = 512  # that an example takes beside its characters


def gathered(examples: Iterable[Example]) -> Sequence[Example]:
    """All examples in their order, by number: a list, or `ExamplesOnDisk` where they are many."""
    first, size, stream = [], 0, iter(examples)
    for example in stream:
        first.append(example)
        size += sum(len(value) for value in example.values() if isinstance(value, str)) + PLACE
        if size > IN_MEMORY:
            return ExamplesOnDisk(itertools.chain(first, stream))
    return first


class ExamplesOnDisk(Sequence):
    """Examples in a file that goes with the process: a line of JSON each, read when asked for.

    The examples hold texts, numbers, truth values and lists of them.
    """

    def __init__(self, examples: Iterable[Example]):
        ends, end = [0], 0
        with tempfile.TemporaryFile() as file:
            for example in examples:
                end += file.write(json.dumps(example).encode() + b"\n")
                ends.append(end)
            file.flush()
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = np.asarray(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        start, end = self._ends[range(len(self))[number] :][:2]
        return json.loads(self._lines[start:end])

    def __iter__(self) -> Iterator[Example]:
        for start, end in itertools.pairwise(self._ends):
            yield json.loads(self._lines[start:end])


class Tokens(Sequence):
    """The tokens of texts by number: int32 arrays of up to `length` that end in EOS.

    An EOS that a text has already counts as this one; longer texts are cut before it, as in T5X.

    Args:
      ids: of all texts, one after the other.
      ends: where each text ends among them.

    Attributes:
      lengths: int64 [n], EOS included.
      cut: how many texts were longer.
    """

    def __init__(self, ids: np.ndarray, ends: np.ndarray, length: int):
        self._ids = ids
        self._starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
        own = ends - self._starts
        ended = np.flatnonzero(own)
        own[ended] -= ids[ends[ended] - 1] == EOS
        self.cut = int((own > length - 1).sum())
        self.lengths = np.minimum(own, length - 1) + 1

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number):
        start, length = self._starts[number], self.lengths[number]
        row = np.empty(length, np.int32)
        row[:-1], row[-1] = self._ids[start : start + length - 1], EOS
        return row

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


class Behind(Sequence):
    """Rows of tokens behind whole demonstrations, the first of which are dropped for lack of room.

    Args:
      rows: tokens of the inputs.
      shown: the tokens of demonstrations, without EOS.
      chosen: int [n, K], which demonstrations stand before each row.
      length: tokens of a row, at most.

    Attributes:
      lengths: as of `Tokens`.
      dropped: how many demonstrations have no room.
    """

    def __init__(
        self, rows: "Tokens | Behind", shown: token_cache.Ids, chosen: np.ndarray, length: int
    ) -> None:
        self._rows, self._shown, self._chosen = rows, shown, chosen
        sizes = shown.lengths[chosen]
        # Room for the last k demonstrations and the row itself, for k from K down to 0.
        after = np.cumsum(sizes[:, ::-1], axis=1)[:, ::-1] + rows.lengths[:, None]
        self._first = (after > length).sum(axis=1)
        self.dropped = int(self._first.sum())
        fitting = np.arange(chosen.shape[1]) >= self._first[:, None]
        self.lengths = rows.lengths + (sizes * fitting).sum(axis=1)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number):
        before = self._chosen[number, self._first[number] :]
        return np.concatenate([*(self._shown[i] for i in before), self._rows[number]])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


@dataclass(frozen=True)
class Rows:
    """The rows of a task: examples as text, and their tokens, by number.

    Attributes:
      truncated_inputs, truncated_targets: how many texts were cut.
      dropped_demonstrations: how many had no room before their inputs.
    """

    name: str
    examples: Sequence[Example]
    inputs: Tokens | Behind
    targets: Tokens
    truncated_inputs: int = 0
    truncated_targets: int = 0
    dropped_demonstrations: int = 0

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n, 2]: tokens of each input and target, EOS included."""
        return np.stack([self.inputs.lengths, self.targets.lengths], axis=1)


def rows_of(name: str, examples: Sequence[Example], vocabulary, limits: tuple[int, int]) -> Rows:
    """Encodes `inputs` and `targets`; `limits` are the tokens of each, EOS included.

    A feature that is an array of integers already is taken as tokens of the backbone's vocabulary.
    """
    if vocabulary is None:
        raise UserError(
            f"task {typed(name)!r}",
            "is text; the backbone has no vocabulary",
            "bind VOCABULARY in a recipe, give --vocabulary=FILE.model to eval",
        )
    inputs = tokenize_texts(Column(examples, "inputs"), vocabulary, limits[0])
    targets = tokenize_texts(Column(examples, "targets"), vocabulary, limits[1])
    return Rows(name, examples, inputs, targets, inputs.cut, targets.cut)


class Column(Sequence):
    """One feature of examples, by number."""

    def __init__(self, examples: Sequence[Example], key: str):
        self._examples, self._key = examples, key

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number):
        return self._examples[number][self._key]

    def __iter__(self) -> Iterator:
        return (example[self._key] for example in self._examples)


def tokenize_texts(values: Sequence, vocabulary, length: int) -> Tokens:
    """The tokens of texts, or of arrays of tokens, up to `length` each."""
    if all(isinstance(value, str) for value in values):
        texts = token_cache.encoded(values, vocabulary)
        return Tokens(texts.ids, texts.ends, length)
    return tokens_of([vocabulary.encode(v) if isinstance(v, str) else v for v in values], length)


def tokens_of(arrays: Sequence, length: int) -> Tokens:
    """Arrays of token ids as `Tokens`."""
    ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
    ids = [np.asarray(array, np.int32) for array in arrays]
    return Tokens(np.concatenate(ids) if ids else np.zeros(0, np.int32), ends, length)
