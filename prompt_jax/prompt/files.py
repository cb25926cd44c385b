"""The two files of an artefact: read as one save wrote them, and replaced whole or not at all."""

import ctypes
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.paths import is_local

TENSORS, MANIFEST = "prompt.safetensors", "manifest.json"


def read_pair(where: str) -> tuple[bytes, bytes]:
    """manifest.json and prompt.safetensors of one save, although another may land meanwhile."""
    base = epath.Path(where)
    if is_local(base) and not base.exists():
        base = epath.Path(
            _beside(Path(where).resolve(), "old")
        )  # a save killed between its two renames
    if not base.is_dir():
        state = "is not a directory" if base.exists() else "does not exist"
        raise UserError(f"prompt {where!r}", state, "give an artefact's directory or a .npy")
    remedy = f"an artefact has {MANIFEST} and {TENSORS}; copy the whole directory"
    text = read_bytes(base / MANIFEST, remedy)
    while True:
        tensors = read_bytes(base / TENSORS, remedy)
        again = read_bytes(base / MANIFEST, remedy)
        if again == text:
            return text, tensors
        text = again


def read_bytes(path: epath.Path, remedy: str) -> bytes:
    """A file's bytes; UserError with the remedy where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{str(path)!r}", "no such file", remedy) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{str(path)!r}", f"cannot be read ({reason})", remedy) from None


def _beside(target: Path, what: str) -> Path:
    return target.parent / f".{target.name}.{what}"


def write_local(target: Path, files: Mapping[str, bytes]) -> None:
    """The files of an artefact in place of the one that may be there; a kill leaves either."""
    _check_replaceable(target)
    new, old = _beside(target, "new"), _beside(target, "old")
    if old.exists() and not target.exists():
        old.rename(target)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    for name, data in files.items():
        with open(new / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if not target.exists():
        new.rename(target)
    elif exchange(new, target):
        shutil.rmtree(new)
    else:
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old)


def _check_replaceable(target: Path) -> None:
    """Refuses to replace anything but an artefact or an empty directory."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"prompt directory {str(target)!r}", "is a file", "give another path")
    names = [path.name for path in target.iterdir()]
    if names and TENSORS not in names:
        raise UserError(
            f"directory {str(target)!r}",
            f"holds {names[0]!r} and is not a prompt",
            "give an empty one",
        )


def exchange(a: Path, b: Path) -> bool:
    """Swaps two names at once (Linux's renameat2); False where that cannot be done, as on NFS."""
    here, flags = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    return rename(here, os.fsencode(a), here, os.fsencode(b), flags) == 0


def write_bucket(target: epath.Path, tensors: bytes, manifest: str) -> None:
    """The same where nothing can be renamed: without a manifest there is no artefact."""
    target.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST).unlink(missing_ok=True)
    (target / TENSORS).write_bytes(tensors)
    (target / MANIFEST).write_text(manifest)
