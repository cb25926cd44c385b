"""Imports modules that the user wrote: tasks, and classes that recipes may then name."""

import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from prompt_jax.errors import RunError, UserError
from prompt_jax.recipe.registered import USERS, known

# Of the modules that were imported here: {file name: SHA-256 of its code}, of which blank lines and
# lines of comments are no part.
CODE: dict[str, str] = {}

MODULE = "give the dotted name of a module that imports, or the path of a .py file"


def import_tasks_module(name_or_path: str) -> ModuleType:
    """Imports the module of a user's tasks: a dotted name, or the path of a .py file.

    A path is imported once a process. UserError if there is no such module or if it fails.
    """
    return _import(name_or_path, "--tasks_module")


def import_methods_module(name_or_path: str) -> list[str]:
    """Imports a module and lets recipes name its settings classes: methods, terms, inits, readers.

    Every class of its own whose name has no leading underscore and that `@settings` made is
    registered under its name, so that `@SubspacePrompt()` and `SubspacePrompt.rank = 4` hold.

    Returns:
      The names, in the module's order.

    Raises:
      UserError: it does not import, has no such class, or one has the name of another class.
    """
    flag = f"--methods_module={name_or_path}"
    module = _import(name_or_path, "--methods_module")
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and not name.startswith("_")
    ]
    if not names:
        raise UserError(flag, "has no class for recipes", "mark one with @settings")
    table = known()
    for name in names:
        place = f"{module.__name__}:{name}"
        if table.get(name, place) != place:
            raise UserError(flag, f"{name} is registered already", "give the class another name")
        USERS[name] = place
    return names


def _import(name_or_path: str, flag: str) -> ModuleType:
    module = _import_any(name_or_path, flag)
    if module.__file__ is not None and module.__file__.endswith(".py"):
        path = Path(module.__file__)
        lines = [line.rstrip() for line in path.read_bytes().splitlines()]
        code = b"\n".join(line for line in lines if line and not line.lstrip().startswith(b"#"))
        CODE[path.name] = hashlib.sha256(code).hexdigest()
    return module


def _import_any(name_or_path: str, flag: str) -> ModuleType:
    try:
        if name_or_path.endswith(".py"):
            return _import_path(Path(name_or_path), flag)
        return importlib.import_module(name_or_path)
    except UserError as error:
        if str(error.where).startswith(flag):
            raise
        where = f"{flag}={name_or_path}: {error.where}"
        raise UserError(where, error.problem, error.remedy) from error
    except RunError:
        raise
    except SystemExit as error:
        problem = f"the module exits with {error.code!r} when it is imported"
        raise UserError(f"{flag}={name_or_path}", problem, "leave that out of it") from error
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        remedy = MODULE if isinstance(error, ImportError) else "mend the module"
        if "duplicate provider" in problem:
            problem, remedy = f"the name {str(error).split()[-1]!r} is taken", "choose another name"
        raise UserError(f"{flag}={name_or_path}", problem, remedy) from error


def _import_path(path: Path, flag: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{flag}={path}", "no such file", "give the path of a .py file")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    name = f"prompt_jax_user_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # a module may import the files beside it, before all others
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:  # and later, from inside its functions
            sys.path.append(folder)
    return module
