"""The order of the rooms (docs/architecture.md): a module imports from its own room and those above
it in ROOMS, wherever the import statement stands."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "top", "metrics", "recipe", "model", "tasks", "backbone", "prompt", "methods", "objective",
    "data", "answer", "hosts", "evaluate", "export", "run", "adapt", "search", "transfer", "fit",
    "doctor", "inspect", "serve", "cli", "above",
)  # fmt: skip
ABOVE = {"prompt_jax", "prompt_jax.api", "prompt_jax.__main__"}  # what may import from any room
ALIASES = {"prompt_jax.metrics_text"}  # an older name of a module, for modules of users


def room(module: str) -> str:
    if module in ABOVE:
        return "above"
    name = module.split(".")[1]
    return name if name in ROOMS else "top"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for folder, package in (
        (root / "prompt_jax", "prompt_jax"),
        (root / "tasks", "prompt_jax.tasks"),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


def imported(source: str, known: set[str]) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of this package's, those inside of functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in known else node.module), node.lineno


def upward(sources: dict[str, str]) -> list[str]:
    """The imports that run against the order: `MODULE:LINE imports MODULE`."""
    known = set(sources)
    return [
        f"{module}:{line} imports {target}"
        for module, source in sorted(sources.items())
        for target, line in imported(source, known)
        if ROOMS.index(room(target)) > ROOMS.index(room(module)) and module not in ALIASES
    ]


def circles(sources: dict[str, str]) -> list[str]:
    """Modules that import each other when they are loaded, by any way round."""
    known = set(sources)
    arrows = {m: {t for t, _ in imported(s, known)} - {m} for m, s in sources.items()}
    while leaves := {m for m, targets in arrows.items() if not targets & set(arrows)}:
        arrows = {m: t for m, t in arrows.items() if m not in leaves}
    return sorted(arrows)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {name: path.read_text() for name, path in modules(ROOT).items()}


def test_no_import_runs_against_the_order_of_rooms(sources: dict[str, str]) -> None:
    assert upward(sources) == []


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {p.name for p in (ROOT / "prompt_jax").iterdir() if (p / "__init__.py").exists()}
    assert folders <= set(ROOMS)


def test_a_lazy_import_of_a_later_room_is_found(sources: dict[str, str]) -> None:
    planted = "def load():\n    from prompt_jax.run.train import train\n    return train\n"
    found = upward({**sources, "prompt_jax.model.planted": planted})
    assert found == ["prompt_jax.model.planted:2 imports prompt_jax.run.train"]


def test_no_modules_import_each_other(sources: dict[str, str]) -> None:
    assert circles(sources) == []
    planted = {"prompt_jax.model.t5": "from prompt_jax.model import decode\n"}
    assert "prompt_jax.model.decode" in circles({**sources, **planted})
