"""A run's model_dir with one writer, and the signal that asks a run to stop."""

import contextlib
import fcntl
import itertools
import signal
import threading
from collections.abc import Iterator

from etils import epath
from jax.experimental import multihost_utils

from prompt_jax import hosts
from prompt_jax.errors import UserError
from prompt_jax.metrics import is_local


@contextlib.contextmanager
def open_folder(model_dir: str) -> Iterator[epath.Path]:
    """The folder, made if need be and locked against a second writer (but not in a bucket).

    Raises:
      UserError: it cannot be written, or another process holds it.
    """
    folder = epath.Path(model_dir)
    folder = folder.expanduser().resolve() if is_local(folder) else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise UserError(
            f"model_dir {model_dir!r} cannot be written ({error.strerror or error}): "
            "give --model_dir a folder of your own"
        ) from None
    with lock:
        yield folder


def _lock(folder: epath.Path) -> contextlib.AbstractContextManager:
    if not is_local(folder) or not hosts.writes():
        return contextlib.nullcontext()
    file = open(folder / ".lock", "w")  # noqa: SIM115 (the caller closes it, which unlocks)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"model_dir {str(folder)!r} is in use by another run: wait, or take another folder"
        ) from None
    return file


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
