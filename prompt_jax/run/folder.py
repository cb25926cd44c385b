"""A run's model_dir with one writer, and the signal that asks a run to stop."""

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath
from jax.experimental import multihost_utils

from prompt_jax import hosts
from prompt_jax.errors import RunError, UserError
from prompt_jax.paths import is_local

LOCK = ".lock"


@contextlib.contextmanager
def open_folder(model_dir: str) -> Iterator[epath.Path]:
    """The folder, made if need be and locked against a second writer (but not in a bucket).

    What was made for a run that a UserError ends before it leaves anything goes again.

    Raises:
      UserError: its name is empty, it cannot be written, or another process holds it.
      RunError: the disk filled up meanwhile.
    """
    if not model_dir.strip():
        raise UserError(f"--model_dir={model_dir}", "is empty", "give the folder of the run")
    folder = epath.Path(model_dir)
    folder = folder.expanduser().resolve() if is_local(folder) else folder
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise UserError(
            f"model_dir {model_dir!r}",
            f"cannot be written ({error.strerror or error})",
            "give --model_dir a folder of your own",
        ) from None
    with lock:
        try:
            yield folder
        except UserError:
            _remove(made)
            raise
        except Exception as error:
            if not _is_of_a_full_disk(error):
                raise
            raise RunError(
                f"model_dir {model_dir!r}: no space is left there; free some and run the same "
                "command again"
            ) from error


def _is_of_a_full_disk(error: BaseException | None) -> bool:
    """Whether a write failed for want of space, or a library says so in the system's words."""
    words = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]
    while error is not None:
        if any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _missing(folder: epath.Path) -> list[epath.Path]:
    """The folders that have to be made for this one, the innermost first; none in a bucket."""
    chain = [folder, *folder.parents] if is_local(folder) and hosts.writes() else []
    return list(itertools.takewhile(lambda one: not one.exists(), chain))


def _remove(made: list[epath.Path]) -> None:
    """Removes those folders, unless there is more in them than a lock."""
    if made and [path.name for path in made[0].iterdir()] == [LOCK]:
        (made[0] / LOCK).unlink()
        with contextlib.suppress(OSError):  # somebody else has put something there
            for one in made:
                one.rmdir()


def _lock(folder: epath.Path) -> contextlib.AbstractContextManager:
    if not is_local(folder) or not hosts.writes():
        return contextlib.nullcontext()
    file = open(folder / LOCK, "w")  # noqa: SIM115 (the caller closes it, which unlocks)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"model_dir {str(folder)!r}", "is in use by another run", "wait, or take another folder"
        ) from None
    return file


def once(path: epath.Path | Path, make: Callable[[], None]) -> None:
    """Has the process that writes make `path` where it does not exist; the others wait for it."""
    if hosts.writes() and not path.exists():
        make()
    wait_for(path)


def wait_for(path: epath.Path | Path) -> None:
    """Waits until every process has come here, the one that wrote `path` among them.

    Raises:
      UserError: this process does not see it.
    """
    if hosts.several():
        multihost_utils.sync_global_devices(str(path))
        if not path.exists():
            raise UserError(
                path,
                "was written by process 0 and cannot be seen from this process",
                "give all processes one --model_dir that each can see",
            )
