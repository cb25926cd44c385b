"""What benchmarks share: sides that take turns, and what their times say.

Sides are measured in turns, one call each a round, so that what else the machine does meets both. A
ratio is the median over rounds, above 1 where ours is the faster, its spread the 10th and the 90th
percentile.
"""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

LIBRARIES = ("prompt-jax", "jax", "jaxlib", "flax", "torch", "transformers", "peft")


class Side(Protocol):
    """One of those that are compared."""

    def step(self) -> tuple[float, float]:
        """Seconds of one call, and how much it did: examples, tokens, FLOPs."""
        ...


class Row(NamedTuple):
    """A line of a report.

    Attributes:
      case: what was done.
      ratio: ours over theirs, of what is done in a second; None: there is no other side.
      spread: of the ratio.
      ours, theirs: in `unit`, medians.
    """

    case: str
    ratio: float | None
    spread: tuple[float, float] | None
    ours: float
    theirs: float | None
    unit: str


def rates(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """What each side does in a second, round by round, after a first call that is not counted."""
    for side in sides.values():
        side.step()
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds, done = side.step()
            measured[name].append(done / seconds)
    return measured


def compared(case: str, ours: Sequence[float], theirs: Sequence[float] | None, unit: str) -> Row:
    """A row of two sides, of their rates in the same rounds.

    >>> compared("steps", [4.0, 6.0, 5.0], [2.0, 2.0, 2.0], "examples/s").ratio
    2.5
    """
    mine = float(np.median(ours))
    if theirs is None:
        return Row(case, None, None, mine, None, unit)
    ratios = np.asarray(ours) / np.asarray(theirs)
    low, high = np.percentile(ratios, [10, 90])
    ratio = float(np.median(ratios))
    return Row(case, ratio, (float(low), float(high)), mine, float(np.median(theirs)), unit)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit seconds = a * size**b.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def report(bench: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "bench": bench,
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "devices": [device.device_kind for device in jax.devices()],
            "load": os.getloadavg()[0],
        },
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
        "rows": [row._asdict() for row in rows],
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
