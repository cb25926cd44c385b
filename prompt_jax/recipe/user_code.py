"""Imports a module that the user wrote."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from prompt_jax.errors import UserError

if TYPE_CHECKING:
    pass


def import_tasks_module(name_or_path: str) -> ModuleType:
    """Imports the module of a user's tasks: a dotted name, or the path of a .py file.

    A path is imported once a process. UserError if there is no such module or if it fails.
    """
    try:
        if name_or_path.endswith(".py"):
            return _import_path(Path(name_or_path))
        return importlib.import_module(name_or_path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--tasks_module={name_or_path}: {type(error).__name__}: {error}; "
            "it must be the dotted name of a module that imports, or the path of a .py file"
        ) from error


def _import_path(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"--tasks_module={path}: no such file; give the path of a .py file")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    name = f"prompt_jax_user_tasks_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
