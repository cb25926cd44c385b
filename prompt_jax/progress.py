"""Progress of what may take minutes: a line every few seconds, with the time that is left."""

import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator

EVERY = 5.0  # seconds between lines, and before the first
_say: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "say", default=None
)


@contextlib.contextmanager
def shown(say: Callable[[str], None]) -> Iterator[None]:
    """Progress inside is given to `say`, line by line; elsewhere nobody sees it."""
    before = _say.set(say)
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
