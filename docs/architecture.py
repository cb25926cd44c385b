"""Draws `docs/architecture.md`'s figure and lists from the imports of the code; runs `generate`.

    python docs/architecture.py            # writes the lists and rooms.svg
    python docs/architecture.py --check    # exit code 1 if the page is out of date

Everything is read from the source text. `generate.py` alone imports the program.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import generate

ROOT = Path(__file__).resolve().parents[1]
PAGE, FIGURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "rooms.svg"

# The rooms, lowest first. A module imports from its own room and from those before it.
ROOMS = {
    "top": "errors, settings, paths and text files: what every room may use",
    "metrics": "metrics of texts and vectors, as SeqIO tasks take them",
    "recipe": "gin files and bindings become one checked object",
    "model": "the T5, what a method hands to it, decoding, sharding",
    "tasks": "SeqIO registrations and readers (the root folder `tasks/`)",
    "backbone": "a backbone string to a frozen T5: weights in and out, vocabularies",
    "prompt": "prompts as data: where rows stand, artefacts, libraries, stacks",
    "methods": "one file a method",
    "objective": "the loss, terms beside it, gradient rules, optimizers",
    "data": "a task's text to the arrays of a step",
    "answer": "questions to answers: batches, slots, files that answers are kept in",
    "hosts": "several processes of one run",
    "evaluate": "answers to metrics",
    "export": "prompts for other programs, and from them",
    "run": "a training run, and programs of several",
    "adapt": "adaptation to one input at test time",
    "search": "discrete prompts",
    "transfer": "prompts as the start of other prompts",
    "fit": "would it fit on chips that are not here",
    "doctor": "would it run here",
    "inspect": "pictures and measurements of what was trained",
    "serve": "a server",
    "bench": "how fast it is, here and beside others",
    "cli": "the program: the only room that knows a flag",
    "above": "`prompt_jax.api`, and what starts the program",
}
ABOVE = {"prompt_jax", "prompt_jax.api", "prompt_jax.__main__"}
METRICS = ("aggregate", "generation", "glue", "qa", "retrieval", "tags", "text")
# Older names of modules, kept for modules of users.
ALIASES = {f"prompt_jax.metrics_{name}" for name in METRICS}


def room(module: str) -> str:
    """The room of a module.

    >>> room("prompt_jax.model.t5"), room("prompt_jax.errors"), room("prompt_jax.api")
    ('model', 'top', 'above')
    """
    if module in ABOVE:
        return "above"
    name = module.split(".")[1]
    return name if name in ROOMS else "top"


def modules() -> dict[str, Path]:
    """Every module of the package, by its name."""
    paths = {}
    for folder, package in (("prompt_jax", "prompt_jax"), ("tasks", "prompt_jax.tasks")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            paths[".".join((package, *parts))] = path
    return paths


@cache
def _imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    nodes = ast.walk(ast.parse(source))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(source: str, known: set[str]) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of a known module, those inside functions included."""
    for node in _imports(source):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names if name.name in known)
        elif node.module in known:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield (inner if inner in known else node.module), node.lineno


def upward(sources: dict[str, str]) -> list[str]:
    """The imports that run against the order: `MODULE:LINE imports MODULE`."""
    order, known = list(ROOMS), set(sources)
    return [
        f"{module}:{line} imports {target}"
        for module, source in sorted(sources.items())
        for target, line in imports(source, known)
        if order.index(room(target)) > order.index(room(module)) and module not in ALIASES
    ]


def circles(sources: dict[str, str]) -> list[str]:
    """The modules that lie on a circle of imports, or lead only into one."""
    known = set(sources)
    arrows = {name: {t for t, _ in imports(text, known)} - {name} for name, text in sources.items()}
    while ends := {name for name, targets in arrows.items() if not targets & set(arrows)}:
        arrows = {name: targets for name, targets in arrows.items() if name not in ends}
    return sorted(arrows)


def read_sources() -> dict[str, str]:
    return {name: path.read_text() for name, path in modules().items()}


def arrows_between_rooms(sources: dict[str, str]) -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    known = set(sources)
    pairs = (
        (room(module), room(target))
        for module, text in sources.items()
        for target, _ in imports(text, known)
        if module not in ALIASES
    )
    return Counter((start, end) for start, end in pairs if start != end)


def file_list(sources: dict[str, str]) -> str:
    """Every file with the first line of its docstring, room by room."""
    lines: list[str] = []
    paths = modules()
    for name, purpose in ROOMS.items():
        files = [m for m in sources if room(m) == name and paths[m].name != "__init__.py"]
        if files:
            lines += ["", f"**{name}**: {purpose}", ""]
        for module in sorted(files):
            docstring = ast.get_docstring(ast.parse(sources[module])) or ""
            first = docstring.split("\n\n")[0].replace("\n", " ")
            lines.append(f"- `{paths[module].relative_to(ROOT)}`: {first}")
    return "\n".join(lines).strip()


def replaced(page: str, mark: str, text: str) -> str:
    """The page with the block between `<!-- MARK -->` and `<!-- /MARK -->` replaced."""
    head, rest = page.split(f"<!-- {mark} -->\n", 1)
    return f"{head}<!-- {mark} -->\n{text}\n<!-- /{mark} -->{rest.split(f'<!-- /{mark} -->', 1)[1]}"


def draw(sources: dict[str, str]) -> None:
    """The rooms from top to bottom, and an arc for the imports between each two of them."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rooms"
    from matplotlib import pyplot as plt
    from matplotlib.patches import Arc

    from prompt_jax.inspect.pictures import BLUE, GREY, RED, STYLE

    matplotlib.rcParams.update(STYLE)

    names = [name for name in ROOMS if any(room(m) == name for m in sources)]
    sizes = Counter(room(module) for module in sources)
    height = {name: -i for i, name in enumerate(names)}
    figure, axes = plt.subplots(figsize=(7.5, 0.36 * len(names) + 0.8))
    for (start, end), count in arrows_between_rooms(sources).items():
        low, high = height[start], height[end]
        arc = Arc((0, (low + high) / 2), abs(high - low), abs(high - low), theta1=90, theta2=270)
        arc.set(linewidth=0.4 + 0.12 * count, color=BLUE if high > low else RED, alpha=0.55)
        axes.add_patch(arc)
    for name in names:
        axes.text(0.3, height[name], name, va="center", fontsize=10, family="monospace")
        axes.text(3.2, height[name], f"{sizes[name]} files", va="center", fontsize=8, color=GREY)
    axes.set(xlim=(-len(names) / 2 - 0.5, 6), ylim=(-len(names) + 0.2, 1))
    axes.set_title("Imports between rooms: each arc leads up the list")
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(FIGURE, bbox_inches="tight", metadata={"Date": None})


def main() -> int:
    sources = read_sources()
    page = replaced(PAGE.read_text(), "files", file_list(sources))
    if "--check" in sys.argv:
        return int(page != PAGE.read_text())
    PAGE.write_text(page)
    draw(sources)
    generate.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
