"""What a format's own reader makes of a file, found out in a process that has seen nothing of it.

`python -m prompt_jax.export.fresh FOLDER`, where FOLDER holds `request.json` (format, path, and
for a forward pass `texts`, `max_length`, `folder`, a model of transformers, and `tied`, whether its
head is its embedding) and perhaps `batch.npz` (int32 T5X features). It adds `found.npz` (`encoder`,
`decoder` and the like; `logits` of the batch, `ids` of greedy search, `token_ids` of the texts) and
`versions.json` of the libraries that read.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.errors import RunError
from prompt_jax.export.formats import get_format


@dataclass(frozen=True)
class Found:
    """What the consumer read: arrays by name, and the versions of its libraries."""

    arrays: dict[str, np.ndarray]
    versions: dict[str, str]


def consume(
    scratch: Path,
    name: str,
    path: Path,
    batch: Mapping[str, np.ndarray] | None = None,
    **model: Any,
) -> Found:
    """Reads `path`, in format `name`, in a fresh process; `scratch` is an empty folder.

    `model` (`folder`, `tied`, `texts`, `max_length`, with a batch) asks for logits.

    Raises:
      RunError: the consumer cannot read it; the last line that it said.
    """
    request = {"format": name, "path": str(path.resolve()), **model}
    (scratch / "request.json").write_text(json.dumps(request))
    if batch is not None:
        np.savez(scratch / "batch.npz", **dict[str, Any](batch))
    # -P: a file numpy.py in the working directory must not be taken for numpy.
    command = [sys.executable, "-P", "-m", __name__, str(scratch)]
    if get_format(name).whole:
        command = [sys.executable, "-P", str(path / "run.py"), "--check", str(scratch.resolve())]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}  # the accelerator is the parent's
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        consumer = get_format(name).consumer[0]
        raise RunError(
            f"{consumer} cannot read {str(path)!r} as {name} ({lines[-1]}): nothing is kept"
        )
    with np.load(scratch / "found.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return Found(arrays, json.loads((scratch / "versions.json").read_text()))


def main(scratch: Path) -> None:
    request = json.loads((scratch / "request.json").read_text())
    form = get_format(request["format"])
    if (scratch / "batch.npz").is_file():
        with np.load(scratch / "batch.npz", allow_pickle=False) as file:
            request["batch"] = {name: file[name].astype(np.int64) for name in file.files}
    consumed = form.load().consume(request["path"], request)
    np.savez(scratch / "found.npz", **consumed)
    versions = {name: importlib.metadata.version(name) for name in form.consumer}
    (scratch / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
