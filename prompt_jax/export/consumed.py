"""What consumers of several formats do alike; numpy alone, so that it starts in no time."""

from collections.abc import Callable, Sequence

import numpy as np

EOS = 1


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 [B, T] of rows of ids, 0 behind."""
    table = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def greedy(logits: Callable[[np.ndarray], np.ndarray], rows: int, length: int) -> np.ndarray:
    """int32 [B, N]: greedy ids by whole forward passes, 0 after EOS.

    `logits` gives float32 [B, S, V] of the decoder's inputs, int64 [B, S].
    """
    inputs, ended = np.zeros((rows, 1), np.int64), np.zeros(rows, bool)
    for _ in range(length):
        token = np.where(ended, 0, logits(inputs)[:, -1].argmax(-1))
        ended |= token == EOS
        inputs = np.concatenate([inputs, token[:, None]], axis=1)
        if ended.all():
            break
    ids = np.zeros((rows, length), np.int32)
    ids[:, : inputs.shape[1] - 1] = inputs[:, 1:]
    return ids
