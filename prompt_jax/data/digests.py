"""What every process read: a digest of each row of each batch, for comparing runs.

`MODEL_DIR/batches/I-of-N.jsonl` of process I has a line per step, `{"step": 3, "first": 8, "rows":
["9f0c...", ...]}`: the global number of its first row, and SHA-256 of each row's features.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

AHEAD = 2  # batches that are made, and noted, before the step that takes them; at most


class Read(NamedTuple):
    """The rows of one step that one process assembled."""

    step: int
    first: int
    rows: list[str]


def path_of(model_dir, process: int, processes: int) -> Path:
    return Path(model_dir) / "batches" / f"{process}-of-{processes}.jsonl"


class BatchDigests:
    """Writes them, each line at once, so that a killed process leaves what it read."""

    def __init__(self, model_dir, process: int, processes: int):
        path = path_of(model_dir, process, processes)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (see close)

    def write(self, step: int, first: int, batch: dict[str, np.ndarray]) -> None:
        rows = [row_digest(batch, row) for row in range(len(next(iter(batch.values()))))]
        self.file.write(json.dumps(Read(step, first, rows)._asdict()) + "\n")

    def close(self) -> None:
        self.file.close()


def row_digest(batch: dict[str, np.ndarray], row: int) -> str:
    """SHA-256 (hex) of the names, dtypes and bytes of one row's features."""
    total = hashlib.sha256()
    for name in sorted(batch):
        value = np.ascontiguousarray(batch[name][row])
        total.update(f"{name} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    return total.hexdigest()


def read_digests(path: Path, offset: int = 0) -> list[Read]:
    """Whole lines of one file from a byte on; [] where there is none."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(offset)
        lines = file.read().split(b"\n")
    return [Read(**json.loads(line)) for line in lines[:-1] if line.startswith(b"{")]


def global_batches(model_dir) -> dict[int, dict[int, str]]:
    """{step: {row: digest}} over all processes; a row read twice as different things is "both"."""
    batches: dict[int, dict[int, str]] = defaultdict(dict)
    for path in sorted((Path(model_dir) / "batches").glob("*.jsonl")):
        for read in read_digests(path):
            for row, digest in enumerate(read.rows, start=read.first):
                seen = batches[read.step].setdefault(row, digest)
                batches[read.step][row] = digest if seen == digest else "both"
    return dict(batches)


def different_steps(one, other, steps: int) -> list[int]:
    """The steps at which two runs had not the same rows in the same places."""
    a, b = global_batches(one), global_batches(other)
    return [step for step in range(steps) if not a.get(step) or a.get(step) != b.get(step)]
