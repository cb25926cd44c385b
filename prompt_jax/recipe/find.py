"""Where recipes are: at a path, below a search path, or among the installed ones."""

from collections.abc import Sequence
from pathlib import Path

from prompt_jax.errors import UserError
from prompt_jax.settings import nearest


def recipe_folder() -> Path:
    """The installed recipes; in a checkout, the folder `gin/` beside the package."""
    package = Path(__file__).parents[1]
    checkout = package.parent
    if not (package / "gin").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "gin"
    return package / "gin"


def find_recipe(name: str, search_paths: Sequence[str] = ()) -> str:
    """Path of a recipe: as given, else below a search path, else among the installed ones.

    Raises:
      UserError: no such file; names the nearest installed recipe.
    """
    return _first_file(name, [".", *search_paths], f"--gin_file={name}")


def find_include(name: str, file: str, search_paths: Sequence[str], place: str) -> str:
    """Path of what `file` includes: beside it, below a search path, or installed.

    The working directory plays no part. `place` (FILE:LINE) begins the message of a UserError.
    """
    folders = [str(Path(file).parent), *search_paths]
    return _first_file(name, folders, f"{place}: include '{name}'")


def _first_file(name: str, folders: Sequence[str], where: str) -> str:
    installed = recipe_folder()
    for folder in [*folders, installed]:
        if (Path(folder) / name).is_file():
            return str(Path(folder) / name)
    names = [path.relative_to(installed).as_posix() for path in installed.rglob("*.gin")]
    raise UserError(where, "no such recipe", nearest(name, names))
