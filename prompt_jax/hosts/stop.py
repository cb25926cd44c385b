"""The signal that asks a run to stop, agreed on by all its processes."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator

from jax.experimental import multihost_utils

from prompt_jax import hosts


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
