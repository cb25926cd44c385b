"""Settings: frozen dataclasses that check every field when they are built.

    @settings
    class Data:
        task: str
        batch_size: int = 32

        def check(self) -> None:
            if self.batch_size < 1:
                offender = Setting("Data", "batch_size", self.batch_size)
                raise UserError(offender, remedy="give at least 1")

A `Setting` in the error is how `recipe.config` finds the binding that gave the value.
"""

import collections.abc
import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from prompt_jax.errors import Setting, UserError

T = TypeVar("T")
_ABSTRACT_CALLABLE = collections.abc.Callable


@typing.dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def settings(cls: type[T]) -> type[T]:
    """Turns `cls` into a frozen, keyword-only dataclass whose values fit their annotations.

    Understood: int (a bool is none), float (finite; an int is stored as float), str, bool, None,
    X | Y, Literal, tuple[X, ...], tuple[X, Y], dict[K, V], type[X], Callable, Any and any class. A
    list becomes a tuple where a tuple is annotated. Then the class's own `check(self)`, if it has
    one, raises UserError for values out of range.

    Raises:
      UserError: on construction, as in ``Data.batch_size = 'ten': expected int``.
    """
    assert "__post_init__" not in vars(cls), f"{cls.__name__}: write check(self) instead"
    has_check = any("check" in vars(base) for base in cls.__mro__)

    def check_fields(self: Any) -> None:
        hints = _hints(type(self))
        for field in dataclasses.fields(self):
            value = self.__dict__[field.name]
            try:
                fitted = _fit(value, hints[field.name])
            except _MisfitError:
                expected = _describe(hints[field.name])
                offender = Setting(type(self).__name__, field.name, value)
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(offender, "is no finite number") from None
                raise UserError(offender, f"expected {expected}") from None
            object.__setattr__(self, field.name, fitted)
        if has_check:
            self.check()

    type.__setattr__(cls, "__post_init__", check_fields)
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def at_least(owner: str, least: int, values: Mapping[str, float | None]) -> None:
    """UserError for the first of a settings object's fields that is below `least`; None is none."""
    for name, value in values.items():
        if value is not None and value < least:
            remedy = f"give {least} or more" if least == 0 else f"give at least {least}"
            raise UserError(Setting(owner, name, value), remedy=remedy)


def above(owner: str, bound: float, values: Mapping[str, float | None]) -> None:
    """As `at_least`, for the first field that is not more than `bound`."""
    for name, value in values.items():
        if value is not None and value <= bound:
            raise UserError(Setting(owner, name, value), remedy=f"give more than {bound:g}")


def shares(owner: str, values: Mapping[str, float]) -> None:
    """As `at_least`, for the first field that is not from 0 to 1, or is 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(Setting(owner, name, value), remedy="give 0 <= value < 1")


def fractions(owner: str, values: Mapping[str, float]) -> None:
    """As `at_least`, for the first field that is not from 0 to 1, or is 0."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise UserError(Setting(owner, name, value), remedy="give more than 0, at most 1")


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one, else all of them; "" if none is."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    if not by_lower:
        return ""
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if matches:
        return f"did you mean {by_lower[matches[0]]}?"
    return "known: " + ", ".join(by_lower.values())


def rebinding(old: Any, new: Any) -> list[str]:
    """The bindings that make one settings object another of its class.

    Settings within it are bound by the names of their classes, each of which is there once.
    """
    lines = []
    for field in dataclasses.fields(new):
        before, value = old.__dict__[field.name], new.__dict__[field.name]
        if value == before:
            continue
        name = f"{type(new).__name__}.{field.name}"
        if not dataclasses.is_dataclass(value):
            lines.append(f"{name}={value!r}")
            continue
        lines.append(f"{name}=@{type(value).__name__}()")
        inner = [(f.name, value.__dict__[f.name], f.default) for f in dataclasses.fields(value)]
        lines += [f"{type(value).__name__}.{n}={v!r}" for n, v, default in inner if v != default]
    return lines


class _MisfitError(Exception):
    """A value does not fit its annotation."""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _fit(value: Any, hint: Any) -> Any:
    """`value`, converted where the annotation says so; raises _MisfitError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _fit_any(value, args)
    if origin is Literal:
        return _require(value, any(value == a and type(value) is type(a) for a in args))
    if origin is tuple:
        return _fit_tuple(value, args)
    if origin is dict:
        _require(value, isinstance(value, dict))
        return {_fit(key, args[0]): _fit(item, args[1]) for key, item in value.items()}
    if origin is type:
        return _require(value, isinstance(value, type) and issubclass(value, args[0]))
    if _ABSTRACT_CALLABLE in (hint, origin):
        return _require(value, callable(value))
    return _fit_plain(value, type(None) if hint is None else hint)


def _fit_plain(value: Any, hint: Any) -> Any:
    if not isinstance(hint, type):
        raise TypeError(f"settings do not understand the annotation {hint!r}")
    if hint is float:
        _require(value, isinstance(value, int | float) and not isinstance(value, bool))
        try:
            return _require(float(value), math.isfinite(value))
        except OverflowError:  # of a whole number
            raise _MisfitError from None
    if hint is int:
        return _require(value, isinstance(value, int) and not isinstance(value, bool))
    if hint is tuple and isinstance(value, list):
        return tuple(value)
    return _require(value, isinstance(value, hint))


def _fit_any(value: Any, hints: tuple[Any, ...]) -> Any:
    if type(value) in hints and type(value) is not float:
        return value
    for hint in hints:
        try:
            return _fit(value, hint)
        except _MisfitError:
            continue
    raise _MisfitError


def _fit_tuple(value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    _require(value, isinstance(value, list | tuple))
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_fit(item, hints[0]) for item in value)
    _require(value, len(value) == len(hints))
    return tuple(_fit(item, hint) for item, hint in zip(value, hints, strict=True))


def _require(value: Any, fits: bool) -> Any:
    if not fits:
        raise _MisfitError
    return value


def _describe(hint: Any) -> str:
    """An annotation in words, for messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"a tuple of {_describe(args[0])}"
    if origin is tuple:
        return "a tuple (" + ", ".join(_describe(arg) for arg in args) + ")"
    if origin is dict:
        return f"a dict of {_describe(args[0])} to {_describe(args[1])}"
    if origin is type:
        return f"a subclass of {_describe(args[0])}"
    if _ABSTRACT_CALLABLE in (hint, origin):
        return "a function"
    if hint in (None, type(None)):
        return "None"
    if hint is bool:
        return "bool (True or False)"
    return hint.__name__
