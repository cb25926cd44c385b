"""Which example stands in which row: the global order of a run, a function of (seed, step) alone.

Examples are drawn epoch by epoch in an order that depends on the seed, put into rows by first fit,
and rows are taken BATCH_SIZE at a time. Nothing here depends on hosts or devices.
"""

import bisect
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

OPEN_ROWS = 64  # rows that first fit may still add to
WINDOW = 4096  # examples that are packed together, at least
BEHIND = 4096  # rows that are kept for a step that is asked for again
ROW_STEP = 32  # rows are a multiple of so many columns
# Columns of a row whose attention costs as much as all else. Measured on T5-small on CPUs, forward
# and backward, in rows of 128 and 256.
EVEN = 256


class Piece(NamedTuple):
    """One example of one task."""

    task: int
    example: int


Row = list[Piece]


class RowPlan:
    """The rows of a run, by step.

    Args:
      columns: for each task, int [n, 2]: encoder and decoder columns that each example takes,
        prompt rows included.
      rates: the relative frequency of each task.
      capacity: encoder and decoder columns of a row.
      batch_size: rows per step.
      seed: decides the order.
      packed: False gives every example its own row.
      few_tasks: each step has few tasks, in equal parts, as MPT draws them; without `packed` or
        `buckets`, one example to a row.
      buckets: ascending encoder columns, the last as many as a row has; each step's rows, of one
        example each, are from one bucket. None: rows come in the order of their examples.
    """

    def __init__(
        self,
        columns: list[np.ndarray],
        rates: list[float],
        capacity: tuple[int, int],
        batch_size: int,
        seed: int,
        packed: bool = True,
        buckets: Sequence[int] = (),
        few_tasks: bool = False,
    ):
        self.columns = columns
        self.rates = np.asarray(rates, float) / sum(rates)
        self.capacity = capacity
        self.batch_size = batch_size
        self.seed = seed
        self.open_rows = OPEN_ROWS if packed else 0
        self.buckets = tuple(buckets)
        self.few_tasks = few_tasks
        self._restart()

    def _restart(self):
        pack = self._in_buckets if self.buckets else self._packed
        self._stream = pack(self._windows())
        self._rows: deque[Row] = deque()
        self._first = 0  # global number of self._rows[0]

    def batch(self, step: int) -> list[Row]:
        """The rows of one step, counted from 0; asking in ascending order is cheapest."""
        start = step * self.batch_size
        if start < self._first:
            self._restart()
        while self._first + len(self._rows) < start + self.batch_size:
            self._rows.append(next(self._stream))
            if len(self._rows) > self.batch_size + BEHIND:
                self._rows.popleft()
                self._first += 1
        at = start - self._first
        return list(itertools.islice(self._rows, at, at + self.batch_size))

    def pack_all(self) -> list[Row]:
        """The rows of every example of the first task once, in their order."""
        return list(self._pack(Piece(0, i) for i in range(len(self.columns[0]))))

    def _windows(self) -> Iterator[Iterator[Piece]]:
        """The examples that are packed together, window by window, in the order of packing."""
        if len(self.columns) == 1:
            epochs = -(-WINDOW // len(self.columns[0]))
            for window in range(2**31):
                orders = (self._order(0, window * epochs + e) for e in range(epochs))
                yield (Piece(0, int(i)) for order in orders for i in order)
        streams = [self._task_stream(task) for task in range(len(self.columns))]
        for window in range(2**31):
            rng = np.random.default_rng([self.seed, 1, window])
            if self.few_tasks:
                tasks = some_tasks(rng, self.rates, self.batch_size)
            else:
                tasks = rng.choice(len(streams), size=WINDOW, p=self.rates)
            yield (Piece(int(task), next(streams[task])) for task in tasks)

    def _order(self, task: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, task, epoch]).permutation(
            len(self.columns[task])
        )

    def _task_stream(self, task: int) -> Iterator[int]:
        for epoch in range(2**31):
            yield from (int(i) for i in self._order(task, epoch))

    def _packed(self, windows: Iterator[Iterator[Piece]]) -> Iterator[Row]:
        return itertools.chain.from_iterable(map(self._pack, windows))

    def _in_buckets(self, windows: Iterator[Iterator[Piece]]) -> Iterator[Row]:
        """Rows of one example each, BATCH_SIZE from one bucket after the other; an example waits
        until its bucket has as many."""
        waiting: list[list[Row]] = [[] for _ in self.buckets]
        for piece in itertools.chain.from_iterable(windows):
            need = int(self.columns[piece.task][piece.example][0])
            rows = waiting[bisect.bisect_left(self.buckets, need)]
            rows.append([piece])
            if len(rows) == self.batch_size:
                yield from rows
                rows.clear()

    def width(self, step: int) -> int:
        """Encoder columns of a step's rows: those of their bucket, or as many as a row has."""
        if not self.buckets:
            return self.capacity[0]
        rows = self.batch(step)
        need = max(int(self.columns[piece.task][piece.example][0]) for row in rows for piece in row)
        return self.buckets[bisect.bisect_left(self.buckets, need)]

    def _pack(self, pieces: Iterator[Piece]) -> Iterator[Row]:
        """The rows of a window in their order, each as soon as nothing can be added to it."""
        rows: deque[Row] = deque()  # the last OPEN_ROWS
        free = np.zeros((0, 2), np.int64)  # columns left in them
        for piece in pieces:
            need = self.columns[piece.task][piece.example]
            fits = np.flatnonzero((free >= need).all(axis=1))
            if len(fits):
                rows[fits[0]].append(piece)
                free[fits[0]] -= need
                continue
            rows.append([piece])
            if self.open_rows:
                free = np.concatenate([free, [self.capacity - need]])[-self.open_rows :]
            if len(rows) > self.open_rows:
                yield rows.popleft()
        yield from rows


def some_tasks(rng: np.random.Generator, rates: np.ndarray, batch_size: int) -> np.ndarray:
    """int [batch_size]: the task of each example of a step of MPT.

    Wang et al. 2023 (https://arxiv.org/abs/2303.02861) have published no code; this is the draw of
    DPT's, which is built on theirs: of T tasks, K in 2 to T are drawn, with replacement, by their
    rates; each gets a K-th of the batch, and one of those drawn what is left over.
    """
    drawn = rng.choice(len(rates), size=rng.integers(2, len(rates) + 1), p=rates)
    rest = np.full(batch_size % len(drawn), rng.choice(drawn))
    return np.concatenate([np.repeat(drawn, batch_size // len(drawn)), rest])


def row_length(columns_N2: np.ndarray, most: int, decoder: int) -> int:
    """Columns of a packed row of the encoder in which examples cost least, `most` at most.

    A row of r columns costs r (1 + r / EVEN), since attention is quadratic, and short rows leave
    more of themselves empty; the rows of 512 examples or so are counted by first fit.

    Args:
      columns_N2: int [N, 2], encoder and decoder columns that each example takes.
      most: columns of the longest row that may be.
      decoder: columns of a row of the decoder, which may be full before the encoder's is.

    >>> texts = np.array([(length, 3) for length in (30, 35, 40, 50) * 20])
    >>> row_length(texts, 512, 64), row_length(texts, 512, 5)
    (128, 64)
    """
    longest = -(-int(columns_N2[:, 0].max()) // ROW_STEP) * ROW_STEP
    sizes = [*range(longest, most, ROW_STEP), most]

    some = columns_N2[:: max(1, len(columns_N2) // 512)]

    def cost(columns: int) -> float:
        plan = RowPlan([some], [1.0], (columns, decoder), 1, 0)
        return len(plan.pack_all()) * columns * (1 + columns / EVEN)

    return min(sizes, key=cost)
