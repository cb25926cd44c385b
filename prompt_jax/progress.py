"""Progress of what may take minutes: a line every few seconds, with the time that is left."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

EVERY = 5.0  # seconds between lines, and before the first


class _Speaker:
    """Gives lines to `say`, and knows when the last one was."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.last = say, time.monotonic()

    def __call__(self, line: str) -> None:
        self.last = time.monotonic()
        self.say(line)


_say: contextvars.ContextVar[_Speaker | None] = contextvars.ContextVar("say", default=None)


@contextlib.contextmanager
def shown(say: Callable[[str], None]) -> Iterator[None]:
    """Progress inside is given to `say`, line by line; elsewhere nobody sees it."""
    before = _say.set(_Speaker(say))
    try:
        yield
    finally:
        _say.reset(before)


class Counter:
    """Counts parts of a whole; says how many are done and how long the rest will take."""

    def __init__(self, what: str, total: int, unit: str):
        self.what, self.total, self.unit = what, total, unit
        self.done, self.began = 0, time.monotonic()
        self._last = self.began

    def add(self, parts: int = 1) -> None:
        self.done += parts
        say, now = _say.get(), time.monotonic()
        if say is None or now - self._last < EVERY or self.done >= self.total:
            return
        self._last = now
        seconds = round((now - self.began) / self.done * (self.total - self.done))
        eta = f"{seconds // 60}:{seconds % 60:02d}"
        say(f"{self.what}: {self.done} of {self.total} {self.unit}  ETA {eta}")


@contextlib.contextmanager
def elapsed(what: str) -> Iterator[None]:
    """Says how long the body, which cannot be counted, has taken so far, where nothing else was
    said for a few seconds."""
    say = _say.get()
    if say is None:
        yield
        return
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(EVERY):
            if time.monotonic() - say.last < EVERY:
                continue
            seconds = round(time.monotonic() - began)
            say(f"{what}: {seconds // 60}:{seconds % 60:02d} so far")

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def first_call(function: Callable[P, R], what: str) -> Callable[P, R]:
    """The function; its first call, in which JAX compiles it, is `elapsed`."""
    waiting = [what]

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with elapsed(waiting.pop()) if waiting else contextlib.nullcontext():
            return function(*args, **kwargs)

    return call
