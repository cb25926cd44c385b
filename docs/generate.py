"""Writes generated pages of the documentation: commands, names of recipes, formats of export.

    python docs/generate.py            # writes cli.md, gin.md and exports.md of docs/reference
    python docs/generate.py --check    # exit code 1 if one of them is out of date

Commands come from the program itself; classes, fields and their descriptions from the source text
of the modules that `prompt_jax/recipe/registered.py` names.
"""

import ast
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer

from prompt_jax.cli.main import app
from prompt_jax.recipe.registered import REGISTERED

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
GROUPS = {
    "A run": (
        "Train",
        "Backbone",
        "Data",
        "Evaluation",
        "HeldOutLoss",
        "Checkpoints",
        "MeshShape",
        "Farm",
    ),
    "Methods": ("prompt_jax.methods.",),
    "Loss, terms and rules": ("prompt_jax.objective.",),
    "Stages": (
        "Stages",
        "Stage",
        "FoldAndFreeze",
        "PassWeights",
        "PassPrompt",
        "PassTeacher",
        "PruneRows",
        "PruneNeurons",
    ),
    "Pretraining": ("Pretrain", "NewVocabulary", "CountedEmbeddings", "Corpus"),
}


def cli_page() -> str:
    """Every verb with its help, its example and its options."""
    parts = [
        "# Commands",
        "`prompt-jax VERB --help` prints the same. Verbs that take a recipe also take "
        "`--gin.NAME=VALUE`, see [recipes](../recipes.md).",
    ]
    root = typer.main.get_command(app)
    for name, command in commands(root):
        parts.append(f"## {name}")
        parts += [_text(block) for block in _blocks(command.help or "")]
        rows = [_option(parameter) for parameter in command.params if parameter.name != "help"]
        rows = [row for row in rows if row]
        if rows:
            parts.append("\n".join(["| option | default | |", "|---|---|---|", *rows]))
    return _page(parts)


def commands(root: Any, before: str = "prompt-jax") -> list[tuple[str, Any]]:
    """(name as it is typed, command) of every verb, those of groups included."""
    found = []
    for name, command in sorted(vars(root).get("commands", {}).items()):
        typed = f"{before} {name}"
        below = commands(command, typed)
        found += below or [(typed, command)]
    return found


def _blocks(text: str) -> list[str]:
    """Paragraphs of a help text; one that begins with \\b keeps its lines."""
    return [block for block in re.split(r"\n\s*\n", textwrap.dedent(text)) if block.strip()]


def _text(block: str) -> str:
    if "\b" not in block:
        return " ".join(block.split())
    lines = textwrap.dedent(block.replace("\b\n", "")).splitlines()
    if not lines[0].rstrip().endswith(":"):
        return "```text\n" + "\n".join(lines) + "\n```"
    title, code = lines[0], textwrap.dedent("\n".join(lines[1:]))
    return f"{title.strip()}\n\n```text\n{code.strip()}\n```"


def _option(parameter: Any) -> str:
    if vars(parameter).get("hidden"):
        return ""
    shown = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name
    metavar = vars(parameter).get("metavar")
    flag = vars(parameter).get("is_flag", False)
    name = f"`{shown}`" if flag or not metavar else f"`{shown}={metavar}`"
    if parameter.param_type_name == "argument":
        name = f"`{metavar or parameter.name.upper()}`"
    default = "required" if parameter.required else _default(parameter.default, flag)
    help_text = (vars(parameter).get("help") or "").replace("|", "\\|")
    variable = f" Also `{parameter.envvar}`." if parameter.envvar else ""
    return f"| {name} | {default} | {help_text}{variable} |"


def _default(value: Any, flag: bool) -> str:
    return "" if flag or value in (None, "", (), []) else f"`{value}`"


def gin_page() -> str:
    """Every class that a recipe may name, with its fields."""
    parts = [
        "# Names in recipes",
        "Every class and function that a recipe may bind or refer to, with its parameters and "
        "their defaults. `Train.steps = 300` in a file, `--gin.Train.steps=300` on the command "
        "line. [Recipes](../recipes.md) says how they work.",
    ]
    left = dict(REGISTERED)
    for title, members in [*GROUPS.items(), ("Inits and the rest", ("",))]:
        names = [
            name
            for name, place in left.items()
            if name in members
            or any(place.startswith(m) for m in members if m.endswith(".") or not m)
        ]
        if title == "Methods":
            names = [name for name in names if ".parts." not in left[name]]
        if not names:
            continue
        parts.append(f"## {title}")
        for name in names:
            parts += _entry(name, left.pop(name))
    return _page(parts)


def _entry(name: str, place: str) -> list[str]:
    module, _, attribute = place.partition(":")
    node = _definition(module, attribute)
    summary, rest, fields = _docstring(ast.get_docstring(node) or "")
    parts = [f"### {name}", f"{summary} `{place}`", *rest]
    rows = []
    for field, kind, default in _fields(node):
        says = fields.get(field, "").replace("|", "\\|")
        rows.append(f"| `{name}.{field}` | {_code(kind)} | {default} | {says} |")
    if rows:
        parts.append("\n".join(["| binding | type | default | |", "|---|---|---|---|", *rows]))
    return parts


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _definition(module: str, attribute: str) -> Any:
    relative = module.removeprefix("prompt_jax.").replace(".", "/")
    path = ROOT / "prompt_jax" / f"{relative}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return node
    raise SystemExit(f"{path}: nothing is called {attribute}")


def _fields(node: Any) -> list[tuple[str, str, str]]:
    """(field, type, default as Markdown) of a settings class, or of a function's parameters."""
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.args, *node.args.kwonlyargs]
        return [(a.arg, ast.unparse(a.annotation) if a.annotation else "", "") for a in arguments]
    found = []
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation)
        if "ClassVar" in kind or statement.target.id.startswith("_"):
            continue
        default = "required" if statement.value is None else _code(_plain(statement.value))
        found.append((statement.target.id, kind, default))
    return found


def _plain(value: ast.expr) -> str:
    text = ast.unparse(value)
    return {"dataclasses.field(default_factory=dict)": "{}"}.get(text, text)


def _docstring(text: str) -> tuple[str, list[str], dict[str, str]]:
    """(first sentence or line, other paragraphs, {field: description}) of a docstring."""
    fields: dict[str, str] = {}
    head, _, attributes = text.partition("\nAttributes:\n")
    body, current = [], ""
    for line in attributes.splitlines():
        hit = re.match(r"  (\w[\w, ]*): (.*)", line)
        if hit:
            current = hit[1]
            for name in current.split(", "):
                fields[name] = hit[2]
        elif line.startswith("    ") and current:
            for name in current.split(", "):
                fields[name] += " " + line.strip()
        else:
            current = ""
            body.append(line)
    paragraphs = re.split(r"\n\s*\n", head.strip() + "\n\n" + "\n".join(body).strip())
    summary, *rest = [p for p in paragraphs if p.strip()] or [""]
    return " ".join(summary.split()), [_paragraph(p) for p in rest], fields


def _paragraph(text: str) -> str:
    if any(line.startswith("    ") for line in text.splitlines()):
        return "```text\n" + textwrap.dedent(text).strip() + "\n```"
    return " ".join(text.split())


def _page(parts: list[str]) -> str:
    note = "<!-- Written by `python docs/generate.py`; do not edit. -->"
    return "\n\n".join([note, *parts]) + "\n"


def exports_page() -> str:
    """What each method leaves as."""
    import exports

    first = (
        "What each method can leave as: yes, or what of its prompt the format cannot hold. "
        "[Export](../export.md) says what is written. `FullTuning` trains the model itself, which "
        "`prompt-jax convert` takes."
    )
    return _page(["# Methods and formats of export", first, "\n".join(exports.rows())])


PAGES = {"cli.md": cli_page, "gin.md": gin_page, "exports.md": exports_page}


def stale() -> list[str]:
    """Names of the pages that are not as the code is."""
    paths = {name: FOLDER / name for name in PAGES}
    return [
        name
        for name, make in PAGES.items()
        if not paths[name].is_file() or paths[name].read_text(encoding="utf-8") != make()
    ]


def write() -> None:
    """Writes every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if names := stale():
            sys.exit(f"docs/reference/{', '.join(names)}: out of date; run python docs/generate.py")
    else:
        write()
