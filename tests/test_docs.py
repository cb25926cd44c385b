"""The documentation is true: its commands run, its names import, its paths and targets exist."""

import importlib
import re
from pathlib import Path

import generate
import nbformat
import pytest
import soft_prompt
import typer.main
from nbclient import NotebookClient

from prompt_jax.backbone import load as backbones
from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.cli.main import app
from prompt_jax.model import t5
from prompt_jax.recipe.registered import REGISTERED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone of random weights and bytes that stands in for nano."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    config = t5.T5Config(259, 16, 2, 8, 32, 1, 1)
    files.write(folder, config, weights.arrays_of(weights.init(config, 0)), "bytes")
    return f"files:{folder}"


def page(name: str) -> str:
    """The text of a page below docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_python_example_runs(tiny: str) -> None:
    (code,) = re.findall(
        r"```python\n(import prompt_jax.*?)```", page("reference/api.md"), re.DOTALL
    )
    names: dict = {}
    exec(code.replace('"nano"', repr(tiny)), names)
    assert names["tokens"].shape == (1, 2, 8)
    assert names["likelihood"].shape == (1, 1)


def commands() -> set[str]:
    """Every command of the program, as it is written after `prompt-jax`."""
    found = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = vars(command).get("commands", {})
        found |= {f"{name} {part}" for part in below} or {name}
    return found


def test_the_generated_pages_are_as_the_code_is() -> None:
    """`python docs/generate.py`, `python docs/soft_prompt.py` write them."""
    assert generate.stale() == []
    assert soft_prompt.FIGURE.read_text() == soft_prompt.draw()


def test_the_page_of_commands_and_that_of_names_are_complete() -> None:
    told = set(re.findall(r"^## prompt-jax ([a-z ]+)$", page("reference/cli.md"), re.MULTILINE))
    assert told == commands()
    names = set(re.findall(r"^### (\w+)$", page("reference/gin.md"), re.MULTILINE))
    assert names == set(REGISTERED)
    assert "| `Train.log_period` | `int` | `10` | steps between records" in page("reference/gin.md")


def test_what_is_not_there_yet_is_not_there() -> None:
    """README's list and docs/status.md name no command that exists as missing."""
    missing = README.split("## What is not there yet")[1].split("\n## ")[0]
    missing += page("status.md").split("| not yet | |")[1]
    said = {verb for verb in re.findall(r"`([a-z]+)`", missing)} - {"export"}  # what it lacks
    assert said & {command.split()[0] for command in commands()} == set()


def test_the_walk_to_the_gradient_leads_through_functions_that_exist() -> None:
    walk = page("architecture.md").split("## A batch to the gradient")[1].split("\n## ")[0]
    places = re.findall(r"`([\w/]+\.py)`: `(\w+)`", walk)
    assert len(places) >= 3
    for path, name in places:
        module = importlib.import_module(f"prompt_jax.{path.removesuffix('.py').replace('/', '.')}")
        assert callable(vars(module)[name]), f"{path}: {name}"


def test_the_recipe_and_its_macros_are_the_quickstarts() -> None:
    recipe = (ROOT / "gin" / "runs" / "quickstart.gin").read_text()
    block = page("recipes.md").split("<!-- recipe -->\n```\n")[1].split("```")[0]
    assert [line for line in block.splitlines() if line not in recipe.splitlines()] == []
    (task,) = re.findall(r"^TASK = '(\w+)'", recipe, re.MULTILINE)
    assert f"--task={task} " in README
    shared = "".join(
        (ROOT / "gin" / name).read_text() for name in ("base.gin", "methods/lester.gin")
    )
    rows = re.findall(r"^\| (`[A-Z_`, ]+) \|", page("recipes.md"), re.MULTILINE)
    told = {macro for row in rows for macro in re.findall(r"[A-Z_]+", row)}
    assert told == set(re.findall(r"%([A-Z_]+)", shared))


def test_backbone_strings_are_the_known_ones() -> None:
    told = re.findall(r"^\| `([a-z0-9_]+)[:`]", page("backbones.md"), re.MULTILINE)
    assert sorted(told) == sorted(backbones.OPTIONS)


def test_links_of_the_readme_lead_somewhere() -> None:
    """Those of docs/ are checked by `make docs`."""
    links = re.findall(r"\]\(((?!http)[^)#\s]+)[^)]*\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "AGENTS.md", "launch/README.md"])
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text()
    said = re.findall(r"^make ([a-z ]+[a-z])|`make ([a-z ]+)`", text, re.MULTILINE)
    wanted = {word for pair in said for words in pair for word in words.split()}
    assert wanted - targets == set()


def test_the_notebook_is_stored_with_its_outputs() -> None:
    """`jupyter nbconvert --execute --inplace docs/quickstart.ipynb` makes them anew."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"stream"} and "Traceback" not in NOTEBOOK.read_text()


@pytest.mark.slow
def test_the_notebook_runs_on_nano(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1200, resources=place).execute()
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    used = set(re.findall(r"pj\.(\w+)\(", text))
    assert used == set(importlib.import_module("prompt_jax").__all__)
