"""The failures a user meets, as data; the line that is printed is composed here alone."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

_SHOWN = 80  # characters of a bad value that a message quotes


class Setting(NamedTuple):
    """A field of a settings class and its value: `recipe` finds the binding that gave it.

    Attributes:
      owner: the class, by the name that a recipe gives it, such as "Data".
      field: the field, such as "batch_size".
      value: what was given.
    """

    owner: str
    field: str
    value: Any

    def __str__(self) -> str:
        text = " ".join(repr(self.value).split())
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
        return f"{self.owner}.{self.field} = {shown}"


class UserError(ValueError):
    """A wrong input: a name, a file, a shape, a setting. The command line exits with code 2.

    Attributes:
      where: what the user typed or wrote, and where: a flag with its value, a binding, a file and
        line, a `Setting`. `str` of it is shown.
      problem: what is wrong with it; "" where the remedy says it all.
      remedy: what to do, as an order; "" where the problem says it all.
    """

    def __init__(self, where: object, problem: str = "", remedy: str = ""):
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy = where, problem, remedy

    @property
    def fault(self) -> str:
        """The offender and what is wrong, without the remedy."""
        return _in_a_line(": ".join(part for part in (str(self.where), self.problem) if part))

    def __str__(self) -> str:
        """`where: problem; remedy`, or `where: remedy` where there is no problem to name."""
        what = "; ".join(part for part in (self.problem, self.remedy) if part)
        return _in_a_line(": ".join(part for part in (str(self.where), what) if part))


def _in_a_line(text: str) -> str:
    """Line ends, of texts and names that a message quotes, are written as escapes."""
    return text.translate({ord("\n"): "\\n", ord("\r"): "\\r"})


class RunError(RuntimeError):
    """What went wrong while running, such as a NaN loss. The command line exits with 1."""


class Preempted(RunError):
    """The run saved its state after SIGTERM; run the same command to continue. Exit code 75."""


class Place:
    """Where a reader stands: a file, and the number of its line or entry once there is one."""

    def __init__(self, name: object):
        self.name = name
        self.line: int | None = None

    def __str__(self) -> str:
        return str(self.name) if self.line is None else f"{self.name}:{self.line}"


@contextlib.contextmanager
def reading(name: object, remedy: str = "") -> Iterator[Place]:
    """The frame around a reader: what Python raises inside is a UserError of the file and line.

        with reading(path, "copy it again") as place:
            for place.line, line in enumerate(lines, start=1):
                ...

    Errors of this module, exhausted memory and interrupts pass.
    """
    place = Place(name)
    try:
        yield place
    except (UserError, RunError, MemoryError):
        raise
    except Exception as error:
        raise UserError(place, _cause(error), remedy) from error


def _cause(error: Exception) -> str:
    """What a reader's error means; the text of a ValueError is ours or says what it met."""
    match error:
        case UnicodeDecodeError():
            return f"not UTF-8 at byte {error.start}"
        case json.JSONDecodeError():
            return f"not JSON ({error})"
        case KeyError():
            return f"no field {error}"
        case RecursionError():
            return "nested too deeply"
        case EOFError():
            return "cut short"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case ValueError():
            return str(error)
    return f"{type(error).__name__}: {error}"
