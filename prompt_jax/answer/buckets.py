"""Rows of unequal lengths in batches of few widths, so that few shapes are compiled."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MULTIPLE = 32  # widths are multiples of it
SHAPES = 4  # at most so many widths


class Bucket(NamedTuple):
    """One batch: its width, and the numbers of its rows."""

    width: int
    rows: list[int]


def plan(
    lengths: Sequence[int], size: int, limit: int, groups: Sequence[int] | None = None
) -> list[Bucket]:
    """Every row once, in batches of up to `size` rows of similar lengths, the longest rows first.

    Widths are at least the longest row, at most `limit`, and few: those that waste least. Rows of
    different `groups` (None: all of one) never share a batch. The longest come first so that what
    does not fit into memory fails at once.
    """
    group_of = groups or [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: (group_of[i], -lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else []
        if last and len(last) < size and group_of[last[0]] == group_of[i]:
            last.append(i)
        else:
            batches.append([i])
    needed = [min(-(-lengths[rows[0]] // MULTIPLE) * MULTIPLE, limit) for rows in batches]
    widths = few_widths(needed, SHAPES)
    return [
        Bucket(next(w for w in widths if w >= need), rows)
        for need, rows in zip(needed, batches, strict=True)
    ]


def few_widths(needed: Sequence[int], count: int) -> list[int]:
    """Up to `count` of the needed widths, ascending, that make all batches narrowest in sum.

    >>> few_widths([32, 32, 32, 64, 512, 512], 2)
    [64, 512]
    """
    batches = Counter(needed)
    widths = sorted(batches)
    # cost[k][j]: columns of the batches up to widths[j] where it is the last of k + 1 chosen.
    below = np.cumsum([batches[w] for w in widths])
    cost = [[w * int(n) for w, n in zip(widths, below, strict=True)]]
    came: list[list[int]] = [[-1] * len(widths)]
    for _ in range(min(count, len(widths)) - 1):
        row, origin = [], []
        for j, width in enumerate(widths):
            options = [(cost[-1][i] + width * int(below[j] - below[i]), i) for i in range(j)]
            best, i = min(options, default=(cost[-1][j], -1))
            row.append(best)
            origin.append(i)
        cost.append(row)
        came.append(origin)
    if not widths:
        return []
    k = min(range(len(cost)), key=lambda k: cost[k][-1])
    chosen, j = [], len(widths) - 1
    while j >= 0:
        chosen.append(widths[j])
        j, k = came[k][j], k - 1
    return chosen[::-1]
