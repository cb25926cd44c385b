"""What a path is, before it is read or written; where this user's caches are."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prompt_jax.errors import UserError


def is_local(path) -> bool:
    return "://" not in str(path)


def user_cache() -> Path:
    """What the program remembers for this user; RuntimeError where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prompt_jax"


@contextlib.contextmanager
def writing(path, flag: str) -> Iterator[None]:
    """Makes the folder of a local file that the block opens or writes; `flag` gave its name.

    Raises:
      UserError: it is a folder, or cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{flag}={path}", f"cannot be written ({error.strerror})", "give another file"
        ) from error


def check_writable(path: str, flag: str) -> None:
    """UserError now rather than after the work, where a local file could not be written."""
    if is_local(path):
        with writing(path, flag), open(path, "ab"):
            pass
