"""Batches made ready in a thread, while the device works on the step before."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from prompt_jax.data.digests import AHEAD
from prompt_jax.run.log import Meter


class Prefetch:
    """`make(step)` for each of `steps`, in their order and at most AHEAD of the one asked for.

    What comes is a function of the step alone, so that a resumed run gets the same. An error of
    `make` is raised where its step is asked for.
    """

    def __init__(self, make: Callable[[int], Any], steps: Iterable[int]):
        self._made: queue.Queue = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, steps), daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[int], Any], steps: Iterable[int]) -> None:
        for step in steps:
            try:
                made = (step, make(step), None)
            except Exception as error:
                made = (step, None, error)
            while not self._closed.is_set():
                try:
                    self._made.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or made[2] is not None:
                return

    def next(self, step: int, meter: Meter) -> Any:
        """The batch of `step`, the next of `steps`; the meter learns how long it was waited for."""
        began = time.perf_counter()
        at, made, error = self._made.get()
        meter.waited += time.perf_counter() - began
        assert at == step, (at, step)
        if error is not None:
            raise error
        return made

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
