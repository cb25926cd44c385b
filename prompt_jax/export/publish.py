"""Where an export is written: beside its target first, in place once it is whole."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.paths import is_local

RECORD = "report.json"


def check_free(output: str, suffix: str, format: str) -> None:
    """UserError unless `output` is a path that a format may be written to."""
    if not output.endswith(suffix):
        raise UserError(f"--output={output}", f"a path that ends in {suffix!r} holds {format}")
    if epath.Path(output).exists():
        raise UserError(f"--output={output}", "exists", "remove it, or give another path")


def record_of(path: epath.Path | Path, suffix: str) -> epath.Path:
    """Where the record of an export at `path` is."""
    at = epath.Path(path)
    return at.parent / f"{at.name.removesuffix(suffix)}.{RECORD}" if suffix else at / RECORD


def write_json(path: epath.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def published(output: str, suffix: str) -> Iterator[Path]:
    """A partial path to write at; it becomes `output` if the body succeeds, else it goes.

    The partial folder stands beside a local output; a bucket's is filled from a temporary one.
    """
    if not is_local(output):
        with tempfile.TemporaryDirectory(prefix="prompt_jax_export_") as scratch:
            partial = Path(scratch) / f"partial{suffix}"
            yield partial
            target = epath.Path(output)
            record = Path(record_of(partial, suffix))
            copy_with_record_last(partial, target)
            if suffix:
                copy_with_record_last(record, record_of(target, suffix))
        return
    target = Path(output).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = target.parent / f".{target.name}.partial"
    shutil.rmtree(holder, ignore_errors=True)  # of an export that was killed
    holder.mkdir()
    try:
        partial = holder / target.name
        yield partial
        if suffix:
            record_of(partial, suffix).replace(record_of(target, suffix))
        partial.rename(target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def copy_with_record_last(source: Path, target: Any) -> None:
    """A file, or a folder with its record last."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        return
    last: Callable[[Path], bool] = lambda path: path.name == RECORD  # noqa: E731
    for path in sorted((p for p in source.rglob("*") if p.is_file()), key=last):
        copy_with_record_last(path, target / str(path.relative_to(source)))
