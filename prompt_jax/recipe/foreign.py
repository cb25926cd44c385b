"""Gin files of T5X and google-research/prompt-tuning, read by gin's own parser and never executed.

Nothing that they name is imported: `@x.y()` and `%X` stay references.
"""

import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from prompt_jax.errors import UserError
from prompt_jax.recipe.released import released


class Reference(NamedTuple):
    """`@scope/module.name` or, with `call`, `@scope/module.name()`."""

    selector: str
    call: bool

    @property
    def name(self) -> str:
        """The last part, without scopes and modules."""
        return self.selector.rsplit("/", 1)[-1].rsplit(".", 1)[-1]

    def __repr__(self) -> str:
        return f"@{self.selector}{'()' if self.call else ''}"


class Macro(NamedTuple):
    """`%NAME`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class Line(NamedTuple):
    """A binding.

    Attributes:
      key: the macro's name, or `scope/name.parameter` without modules.
      written: the name as it stands in the file.
      value: plain Python, `Reference` and `Macro`.
      place: FILE:LINE, or the flag.
    """

    key: str
    written: str
    value: Any
    place: str

    def __str__(self) -> str:
        return f"{self.written} = {self.value!r}"


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Reference:
        return Reference(scoped_selector, evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name.removeprefix("gin."))


REQUIRED = Macro("REQUIRED")


def read(
    files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]
) -> dict[str, Line]:
    """{key: the binding in force}, later ones over earlier ones, as gin has it.

    An include that is not on this machine is taken from what is known of the released files.

    Args:
      files: gin files by path or by name below a search path or the working folder.
      bindings: NAME=VALUE from the command line, over all files.

    Raises:
      UserError: a file that is missing or is no gin; an include of which nothing is known.
    """
    lines: dict[str, Line] = {}
    for name in files:
        path = _find(name, [".", *search_paths])
        if path is not None:
            _read_file(path, search_paths, lines, ())
        elif not _read_released(name, lines):
            raise UserError(name, "no such gin file", "give its path, or --gin_search_paths")
    for binding in bindings:
        name, _, value = binding.partition("=")
        place = f"--gin.{binding}"
        for statement in _parse(f"{name} = {value}", place):
            _add(statement, place, lines)
    return lines


def _find(name: str, folders: Sequence[str]) -> str | None:
    paths = (Path(folder) / name for folder in folders)
    return next((str(path) for path in paths if path.is_file()), None)


def _read_file(
    path: str, search_paths: Sequence[str], lines: dict[str, Line], including: tuple[str, ...]
) -> None:
    if path in including:
        raise UserError(path, f"includes itself, by way of {including[-1]}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read ({error})", "give a text file in UTF-8") from error
    for statement in _parse(text, path):
        place = f"{path}:{statement.location.line_num}"
        if isinstance(statement, config_parser.BindingStatement):
            _add(statement, place, lines)
        elif isinstance(statement, config_parser.IncludeStatement):
            name = statement.filename
            file = _find(name, [str(Path(path).parent), *search_paths, "."])
            if file is not None:
                _read_file(file, search_paths, lines, (*including, path))
            elif not _read_released(name, lines):
                remedy = "give the folder that holds it as --gin_search_paths=DIR"
                raise UserError(f"{place}: include '{name}'", "no such file here", remedy)


def _read_released(name: str, lines: dict[str, Line]) -> bool:
    bindings = released(name)
    for written, value in (bindings or {}).items():
        _keep(written, value, f"{name} (as released)", lines)
    return bindings is not None


def _parse(text: str, path: str) -> list[Any]:
    try:
        return list(config_parser.ConfigParser(text, _Delegate()))
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if not path.startswith("--") else path
        raise UserError(where, f"gin cannot read `{(error.text or '').strip()}`") from error
    except (tokenize.TokenError, ValueError) as error:
        raise UserError(path, f"gin cannot read it ({error.args[0]})") from error


def _add(statement: Any, place: str, lines: dict[str, Line]) -> None:
    scope, selector, parameter, value, _ = statement
    scoped = f"{scope}/{selector}" if scope else selector
    _keep(f"{scoped}.{parameter}" if parameter else scoped, value, place, lines)


def _keep(written: str, value: Any, place: str, lines: dict[str, Line]) -> None:
    """Puts the binding last, so that `lines` is in the order in which they took effect."""
    key = key_of(written)
    lines.pop(key, None)
    lines[key] = Line(key, written, value, place)


def key_of(written: str) -> str:
    """`train/utils.DatasetConfig.pack` without its modules.

    >>> key_of("train/utils.DatasetConfig.pack"), key_of("BATCH_SIZE")
    ('train/DatasetConfig.pack', 'BATCH_SIZE')
    """
    scope, slash, rest = written.rpartition("/")
    return scope + slash + ".".join(rest.split(".")[-2:])


def resolve(value: Any, lines: Mapping[str, Line], depth: int = 0) -> Any:
    """`value` with macros replaced by what they are bound to; REQUIRED where they are not."""
    if isinstance(value, Macro):
        if value == REQUIRED or value.name not in lines or depth > 20:
            return REQUIRED
        return resolve(lines[value.name].value, lines, depth + 1)
    return value
