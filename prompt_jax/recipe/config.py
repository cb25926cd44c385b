"""Recipes: gin files and `--gin.` bindings become one built, checked object.

Only this module and `foreign.py` import gin. Every statement is checked before gin sees it: a name
that does not exist is refused with its file and line and the nearest right one. gin then builds
the root with everything nested in it, and what was bound but never used is refused as well. gin's
global state is empty again afterwards, so nothing built here can change later.
"""

import copy
import functools
import importlib
import inspect
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from prompt_jax.errors import Setting, UserError
from prompt_jax.recipe.find import find_include, find_recipe
from prompt_jax.recipe.registered import known
from prompt_jax.recipe.roots import choose
from prompt_jax.settings import nearest

# Macros of T5X that have another name here.
RENAMED = {
    "MIXTURE_OR_TASK_NAME": "TASK",
    "TASK_FEATURE_LENGTHS": "INPUT_LENGTH and TARGET_LENGTH",
    "INITIAL_CHECKPOINT_PATH": "BACKBONE",
}

_MACRO = "gin.macro"
_WORD = re.compile(r"[^\s'\"()\[\]{}@%#][^\s'\"()\[\]{}]*")  # a string that needs no quotes
_Key = tuple[str, str, str]  # scope, configurable, parameter; of a macro (NAME, _MACRO, "value")


@dataclass(frozen=True)
class Config:
    """A loaded recipe.

    Attributes:
      root: the built object; nothing in it depends on gin any more.
      operative: every value in force, defaults included, as gin text that loads again.
      files: the files read, includes too, in order of first reading.
    """

    root: Any
    operative: str
    files: tuple[str, ...]


def load(
    root: str | Sequence[str],
    gin_files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str] = (),
    *,
    registered: Mapping[str, str] | None = None,
) -> Config:
    """Builds the configurable `root` from recipes and, overriding them, "NAME=VALUE" bindings.

    Args:
      root: a name in `registered`; of several the first that the recipe binds, else the last.
      gin_files: recipes, by path or by their names below the search paths or the installed ones.
      bindings: what follows `--gin.` on the command line; a word needs no quotes.
      search_paths: folders to look for recipes in, before the installed ones.
      registered: gin name -> "module:attribute" of every class and function a recipe may name;
        None: those built in, of plug-ins and of the user's modules.

    Raises:
      UserError: one line that names file and line, or the command-line binding.
    """
    if registered is None:
        registered = known()
    gin.clear_config()
    try:
        recipe = _Recipe(registered, search_paths)
        for name in gin_files:
            recipe.read_file(find_recipe(name, search_paths))
        for binding in bindings:
            recipe.read_binding(binding)
        chosen = choose(root, registered, recipe.binds)
        recipe.check_macros()
        built = recipe.build(chosen)
        recipe.check_used()
        return Config(built, gin.operative_config_str(), tuple(recipe.files))
    finally:
        gin.clear_config()


class _Reference(gin_config.ConfigurableReference):
    """`@Name`, `@Name()` or `%MACRO` in a value. gin evaluates it by copying the value deeply."""

    def __init__(self, name: str, evaluate: bool, recipe: "_Recipe"):
        self.name = name.rsplit("/", 1)[-1]
        self.recipe = recipe
        super().__init__(name, evaluate)

    def initialize(self) -> None:
        if self.name == _MACRO or self.name in self.recipe.registered:
            self.recipe.register(self.name)
            super().initialize()

    @property
    def macro(self) -> str | None:
        """The name of the macro that this is, if it is one."""
        return self.scoped_selector.rsplit("/", 1)[0] if self.name == _MACRO else None

    def opens(self, scopes: tuple[str, ...]) -> bool:
        """Whether what is bound in these scopes is in force for what this builds."""
        own = tuple(self.scopes) if self.macro is None else ()
        return bool(own) and scopes[: len(own)] == own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, gin_config.ConfigurableReference) and repr(self) == repr(other)

    __hash__ = gin_config.ConfigurableReference.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        scope = tuple(self.scopes or gin.current_scope())
        if not self.evaluate:
            return self.recipe.plain(scope, self.name)
        return self.recipe.call(scope, self.name, self.scoped_configurable_fn)


@dataclass(frozen=True)
class _Binding:
    key: _Key
    value: Any
    place: str  # FILE:LINE, or the binding as it stood on the command line
    index: int  # position among all statements read
    in_file: bool

    @property
    def title(self) -> str:
        scope, name, parameter = self.key
        if name == _MACRO:
            return scope
        return f"{scope}/{name}.{parameter}" if scope else f"{name}.{parameter}"

    @functools.cached_property
    def references(self) -> list[_Reference]:
        nested = gin_config.iterate_references(self.value)
        return [reference for reference in nested if isinstance(reference, _Reference)]

    def mentions(self, other: "_Binding") -> bool:
        """Whether this value refers to the macro or the configurable that `other` binds, or to a
        scope that `other` stands in."""
        scope, name, _ = other.key
        scopes = () if name == _MACRO else tuple(scope.split("/"))
        named = (r.name == name and r.macro in (None, scope) for r in self.references)
        return any(named) or any(r.opens(scopes) for r in self.references)


class _Delegate(gin_config.ParserDelegate):
    """Makes our references out of gin's syntax; the statement that holds them is checked later."""

    def __init__(self, recipe: "_Recipe"):
        super().__init__()
        self.recipe = recipe

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> _Reference:
        return _Reference(scoped_selector, evaluate, self.recipe)

    def macro(self, name: str) -> Any:
        if name in ("REQUIRED", "gin.REQUIRED"):
            return gin.REQUIRED
        return _Reference(f"{name}/{_MACRO}", True, self.recipe)


class _Recipe:
    """What was read, what holds in the end, and what was used in building it."""

    def __init__(self, registered: Mapping[str, str], search_paths: Sequence[str]):
        self.registered = registered
        self.search_paths = search_paths
        self.files: list[str] = []
        self._bindings: dict[_Key, _Binding] = {}  # the last one of each key
        self._shadowed: list[tuple[_Binding, int]] = []  # and the index of what overrode it
        self._count = 0
        self._calls: list[tuple[tuple[str, ...], str]] = []
        self._active: list[tuple[tuple[str, ...], str]] = []

    def read_file(self, path: str, including: tuple[str, ...] = ()) -> None:
        if path in including:
            raise UserError(path, f"includes itself, by way of {including[-1]}")
        if path not in self.files:
            self.files.append(path)
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                path, f"cannot be read as a recipe ({error})", "give a text file in UTF-8"
            ) from error
        try:
            for statement in config_parser.ConfigParser(text, _Delegate(self)):
                place = f"{path}:{statement.location.line_num}"
                self._read_statement(statement, place, (*including, path))
        except (SyntaxError, tokenize.TokenError) as error:
            line, problem, remedy = _syntax(error)
            raise UserError(f"{path}:{line}", problem, remedy) from error

    def read_binding(self, binding: str) -> None:
        place = "--gin." + " ".join(binding.split())
        name, equals, value = binding.partition("=")
        if not name.strip() or not equals:
            raise UserError(place, remedy="write --gin.NAME=VALUE")
        try:
            statements = self._parse_binding(name, value)
        except (SyntaxError, tokenize.TokenError) as error:
            raise UserError(place, "cannot be read", "quote strings: \"'...'\"") from error
        if [type(statement) for statement in statements] != [config_parser.BindingStatement]:
            raise UserError(place, "expected one binding, --gin.NAME=VALUE")
        self._add(statements[0], place, in_file=False)

    def _parse_binding(self, name: str, value: str) -> list[Any]:
        try:
            return list(config_parser.ConfigParser(f"{name}={value}", _Delegate(self)))
        except (SyntaxError, tokenize.TokenError):
            if not _WORD.fullmatch(value):
                raise
        return list(config_parser.ConfigParser(f"{name}={value!r}", _Delegate(self)))

    def _read_statement(self, statement: Any, place: str, files: tuple[str, ...]) -> None:
        match statement:
            case config_parser.IncludeStatement(filename=name):
                self.read_file(find_include(name, files[-1], self.search_paths, place), files)
            case config_parser.ImportStatement(module=module):
                raise UserError(place, f"import {module}: recipes import nothing", "remove it")
            case config_parser.BlockDeclaration(selector=name):
                self._check_name(name, place, "configurable ")
            case config_parser.BindingStatement():
                self._add(statement, place, in_file=True)

    def _add(self, statement: Any, place: str, in_file: bool) -> None:
        scope, name, parameter, value, _ = statement
        if parameter:
            self._check_name(name, place, "configurable ")
            parameters = self._parameters(name)
            if parameter not in parameters:
                hint = nearest(parameter, parameters)
                raise UserError(place, f"{name} has no parameter {parameter}", hint)
            key = (scope, name, parameter)
        else:
            key = (f"{scope}/{name}" if scope else name, _MACRO, "value")
            _refuse_renamed(name, place)
        binding = _Binding(key, value, place, self._count, in_file)
        for reference in binding.references:
            if reference.macro is None:
                self._check_name(reference.name, place, "reference @")
            else:
                _refuse_renamed(reference.macro, place)
        if key in self._bindings:
            self._shadowed.append((self._bindings[key], self._count))
        self._bindings[key] = binding
        self._count += 1

    def _check_name(self, name: str, place: str, kind: str) -> None:
        if name not in self.registered:
            raise UserError(place, f"unknown {kind}{name}", nearest(name, self.registered))

    def check_macros(self) -> None:
        """Refuses macros that nothing binds, and values left to the command line."""
        macros = [scope for scope, name, _ in self._bindings if name == _MACRO]
        for binding in self._bindings.values():
            if binding.value is gin.REQUIRED:
                raise UserError(
                    binding.place,
                    f"{binding.title} must be given",
                    f"add --gin.{binding.title}=...",
                )
            for reference in binding.references:
                if reference.macro is not None and reference.macro not in macros:
                    hint = nearest(reference.macro, macros)
                    raise UserError(binding.place, f"unknown macro %{reference.macro}", hint)

    def register(self, name: str) -> Any:
        """Registers a configurable with gin, once; returns the plain class or function."""
        if name == _MACRO:
            return gin_config.macro
        module, _, attribute = self.registered[name].partition(":")
        plain = vars(importlib.import_module(module))[attribute]
        if name not in _known_to_gin or _known_to_gin[name] is not plain:
            with gin_config.interactive_mode():
                gin.external_configurable(plain, name=name, module="prompt_jax")
            _known_to_gin[name] = plain
        return plain

    def _parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.register(name)).parameters

    def binds(self, name: str) -> bool:  # any parameter of it, in any scope
        return any(key[1] == name for key in self._bindings)

    def build(self, root: str) -> Any:
        self.register(root)
        for binding in self._bindings.values():
            gin.bind_parameter(binding.key, binding.value)
        return copy.deepcopy(_Reference(root, True, self))

    def call(self, scope: tuple[str, ...], name: str, function: Any) -> Any:
        """Calls gin's version of `name` and gives errors the place of the offending binding."""
        call = (scope, name)
        if call in self._active:
            title = "/".join((*scope, name)).removesuffix(f"/{_MACRO}")
            raise UserError(title, "refers to itself", "break the circle")
        self._check_complete(scope, name)
        self._calls.append(call)
        self._active.append(call)
        try:
            return function()
        except UserError as error:
            raise self._locate(error, scope, name) from error
        finally:
            self._active.pop()

    def plain(self, scope: tuple[str, ...], name: str) -> Any:
        """`@name` without parentheses: the plain object, as gin would bind its values too late."""
        for binding in self._bound(scope, name).values():
            raise UserError(
                binding.place, f"{binding.title} is bound", f"write @{name}() where @{name} is"
            )
        return self.register(name)

    def _bound(self, scope: tuple[str, ...], name: str) -> dict[str, _Binding]:
        """parameter -> the binding in force when `name` is called in `scope`."""
        bound: dict[str, _Binding] = {}
        for depth in range(len(scope) + 1):
            prefix = "/".join(scope[:depth])
            bound |= {k[2]: b for k, b in self._bindings.items() if k[:2] == (prefix, name)}
        return bound

    def _check_complete(self, scope: tuple[str, ...], name: str) -> None:
        bound = self._bound(scope, name)
        for parameter in self._parameters(name).values():
            named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if named and parameter.default is parameter.empty and parameter.name not in bound:
                title, scopes = f"{name}.{parameter.name}", {key[0] for key in self._bindings}
                if scope and "/".join(scope) not in scopes:
                    empty = f"{'/'.join(scope)}/{title}"
                    named = [s for s, of, _ in self._bindings if s and of != _MACRO]
                    problem = f"has no value: nothing is bound in the scope '{'/'.join(scope)}'"
                    raise UserError(empty, problem, nearest("/".join(scope), named))
                raise UserError(title, "has no value", f"bind it, or add --gin.{title}=...")

    def _locate(self, error: UserError, scope: tuple[str, ...], name: str) -> UserError:
        """The error with the place of the binding that gave the wrong value, where one did."""
        setting = error.where
        where = str(setting)
        if isinstance(setting, Setting):
            if setting.owner == self.register(name).__name__:
                bound = self._bound(scope, name)
            else:  # of what was built for it
                name, bound = self._bound_anywhere(setting)
            where = str(setting._replace(owner=name))
            binding = bound.get(setting.field)
            while binding is not None and isinstance(binding.value, _Reference):
                macro = binding.value.macro
                if macro is None:
                    break
                binding = self._bindings[macro, _MACRO, "value"]
            if binding is not None:
                where = f"{binding.place}: {where}"
        return UserError(where, error.problem, error.remedy)

    def _bound_anywhere(self, setting: Setting) -> tuple[str, dict[str, _Binding]]:
        """The name that recipes give the setting's class, and the setting's only binding."""
        names = [n for n, to in self.registered.items() if to.endswith(f":{setting.owner}")]
        name = names[0] if len(names) == 1 else setting.owner
        bound = [b for key, b in self._bindings.items() if key[1:] == (name, setting.field)]
        return name, {setting.field: bound[0]} if len(bound) == 1 else {}

    def check_used(self) -> None:
        used = self._used()
        unused = [binding for key, binding in self._bindings.items() if key not in used]
        if not unused:
            return
        first = min(unused, key=lambda binding: binding.index)
        more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
        problem = f"{first.title} is bound but nothing uses it{more}"
        if first.key[1] != _MACRO:
            raise UserError(
                first.place, problem, f"remove it, or refer to @{first.key[1]}() where it belongs"
            )
        macros = [scope for scope, name, _ in used if name == _MACRO]
        raise UserError(first.place, problem, nearest(first.title, macros))

    def _used(self) -> set[_Key]:
        """Keys of bindings that took part, or would have but for a later or narrower binding."""
        used: set[_Key] = set()
        shadowed = list(self._shadowed)
        for scope, name in self._calls:
            prefixes = {"/".join(scope[:depth]) for depth in range(len(scope) + 1)}
            winners = self._bound(scope, name)
            for key, binding in self._bindings.items():
                if key[1] == name and key[0] in prefixes:
                    used.add(key)
                    winner = winners[key[2]]
                    if winner is not binding:
                        shadowed.append((binding, max(binding.index, winner.index)))
        for binding, index in shadowed:
            used |= self._excused(binding, index)
        return used

    def _excused(self, shadowed: _Binding, index: int) -> set[_Key]:
        """What would be used but for statement `index`: a file before it could not know of it."""
        early = {k: b for k, b in self._bindings.items() if b.index <= index and b.in_file}
        excused: set[_Key] = set()
        reached = [shadowed]
        while reached:
            asking = reached.pop()
            more = {k for k, b in early.items() if k not in excused and asking.mentions(b)}
            excused |= more
            reached += [early[key] for key in more]
        return excused


_known_to_gin: dict[str, Any] = {}  # gin's registry lives as long as the process


def _refuse_renamed(macro: str, place: str) -> None:
    if macro in RENAMED:
        raise UserError(place, f"{macro} is a name of T5X", f"here it is {RENAMED[macro]}")


def _syntax(error: Exception) -> tuple[int | None, str, str]:
    """Line, problem and remedy of an error of gin's parser or of Python's tokenizer."""
    if isinstance(error, SyntaxError):
        text = (error.text or "").strip()
        return error.lineno, f"cannot read `{text}`", "quote strings, close brackets"
    message, (line, _) = error.args
    return line, f"cannot read the recipe: {message}", "close what was opened"
