"""A run's model_dir with one writer, and the signal that asks a run to stop."""

import contextlib
import fcntl
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath
from jax.experimental import multihost_utils

from prompt_jax import hosts
from prompt_jax.errors import UserError
from prompt_jax.metrics import is_local

LOCK = ".lock"


@contextlib.contextmanager
def open_folder(model_dir: str) -> Iterator[epath.Path]:
    """The folder, made if need be and locked against a second writer (but not in a bucket).

    What was made for a run that a UserError ends before it leaves anything goes again.

    Raises:
      UserError: it cannot be written, or another process holds it.
    """
    folder = epath.Path(model_dir)
    folder = folder.expanduser().resolve() if is_local(folder) else folder
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise UserError(
            f"model_dir {model_dir!r} cannot be written ({error.strerror or error}): "
            "give --model_dir a folder of your own"
        ) from None
    with lock:
        try:
            yield folder
        except UserError:
            _remove(made)
            raise


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
            f"model_dir {str(folder)!r} is in use by another run: wait, or take another folder"
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
            raise UserError(f"process 0 wrote {path}, which is not here; give all one --model_dir")


class Stopped(Exception):
    """The run was asked to stop; raised only where it can."""


class Stop:
    """Whether the run was asked to stop."""

    def __init__(self):
        self.asked = False

    def check(self) -> None:
        """Raises Stopped if it was."""
        if self.asked:
            raise Stopped


class AgreedStop(Stop):
    """The same over several processes: SIGTERM to one stops all, at the same call of `check`.

    JAX's runtime has its own handler of SIGTERM, and sees that they agree; all processes make the
    same calls.
    """

    def check(self) -> None:
        if multihost_utils.reached_preemption_sync_point(next(_checks)):
            raise Stopped


_checks = itertools.count(1)  # JAX wants a number that grows as long as the process lives


@contextlib.contextmanager
def stop_signal() -> Iterator[Stop]:
    """A Stop that SIGTERM sets. Signals reach the main thread alone; elsewhere it is never set."""
    if hosts.several():
        yield AgreedStop()
        return
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(*_):
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
