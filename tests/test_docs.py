"""The documentation is true: its commands run, its names import, its paths and targets exist."""

import importlib
import json
import re
import shlex
from pathlib import Path

import nbformat
import pytest
import typer.main
from nbclient import NotebookClient

from prompt_jax.backbone import load as backbones
from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.cli.main import app, main
from prompt_jax.model import t5

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
BLOCK = re.compile(r"<!-- (file|commands): (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
BLOCKS = {(kind, name): text for kind, name, text in BLOCK.findall(README)}
SHORT = ["--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2", "--gin.CHECKPOINT_PERIOD=2"]


def section(name: str) -> str:
    """What stands in the README between `<!-- NAME -->` and `<!-- /NAME -->`."""
    return README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone of random weights and bytes that stands in for nano."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    config = t5.T5Config(259, 16, 2, 8, 32, 1, 1)
    files.write(folder, config, weights.arrays_of(weights.init(config, 0)), "bytes")
    return f"files:{folder}"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str):
    """Writes the README's example files into an empty folder; runs its commands of a name there."""
    monkeypatch.chdir(tmp_path)
    for (kind, name), text in BLOCKS.items():
        if kind == "file":
            (tmp_path / name).write_text(text, encoding="utf-8")

    def run(name: str) -> list[str]:
        lines = BLOCKS["commands", name].replace("\\\n", " ").splitlines()
        for line in lines:
            program, *argv = shlex.split(line.replace("--backbone=nano", f"--backbone={tiny}"))
            assert program == "prompt-jax"
            extra = [*SHORT, f"--gin.BACKBONE={tiny}"] if argv[0] == "train" else []
            assert main([*argv, *extra]) == 0, line
        return lines

    return run


def test_a_task_from_a_jsonl_file(example, capsys) -> None:
    assert len(example("jsonl")) == 2
    assert "billing: 2, fault: 2" in capsys.readouterr().out
    manifest = json.loads(Path("runs/tickets_file/prompt/last/manifest.json").read_text())
    assert manifest["step"] == 2


def test_a_task_from_a_module(example, capsys) -> None:
    module = BLOCKS["file", "my_tasks.py"]
    assert len([line for line in module.splitlines() if line]) <= 5
    assert len(example("module")) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["examples"]) == ("tickets", 2)
    assert 0.0 <= report["accuracy"] <= 100.0
    manifest = json.loads(Path("runs/tickets/prompt/last/manifest.json").read_text())
    assert manifest["task"] == "tickets"


def test_the_python_example_runs(tiny: str) -> None:
    (code,) = re.findall(r"```python\n(import prompt_jax.*?)```", README, re.DOTALL)
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


def test_the_table_of_commands_is_complete() -> None:
    told = set(re.findall(r"^\| `prompt-jax ([a-z ]+)` \|", section("verbs"), re.MULTILINE))
    assert told == commands()


def test_commands_that_are_not_there_yet_are_said_to_be_missing() -> None:
    (row,) = re.findall(r"^\| commands \| (.*) \|$", README, re.MULTILINE)
    missing = set(re.findall(r"`(\w+)`", row))
    assert missing
    assert missing & {command.split()[0] for command in commands()} == set()


def test_the_reading_walk_imports() -> None:
    places = re.findall(r"^\d\. `([\w.]+):(\w+)`", section("walk"), re.MULTILINE)
    assert len(places) == 5
    for module, name in places:
        assert callable(vars(importlib.import_module(module))[name]), f"{module}:{name}"


def test_the_tree_names_folders_that_are_there() -> None:
    lines = section("tree").strip().strip("`").strip().splitlines()
    named = [line.split()[0] for line in lines]
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).is_dir()] == []


def test_the_recipe_and_its_macros_are_the_quickstarts() -> None:
    recipe = (ROOT / "gin" / "runs" / "quickstart.gin").read_text()
    block = README.split("<!-- recipe -->\n```\n")[1].split("```")[0]
    assert [line for line in block.splitlines() if line not in recipe.splitlines()] == []
    (task,) = re.findall(r"^TASK = '(\w+)'", recipe, re.MULTILINE)
    assert f"task `{task}`" in README
    assert f"--task={task} " in README
    shared = "".join(
        (ROOT / "gin" / name).read_text() for name in ("base.gin", "methods/lester.gin")
    )
    rows = re.findall(r"^\| (`[A-Z_`, ]+) \|", README, re.MULTILINE)
    told = {macro for row in rows for macro in re.findall(r"[A-Z_]+", row)}
    assert told == set(re.findall(r"%([A-Z_]+)", shared))


def test_backbone_strings_are_the_known_ones() -> None:
    table = README.split("## Backbones")[1].split("## ")[0]
    told = re.findall(r"^\| `([a-z0-9_]+)[:`]", table, re.MULTILINE)
    assert sorted(told) == sorted(backbones.OPTIONS)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {title.lower().replace(" ", "-").replace(",", "") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) - anchors == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "AGENTS.md", "launch/README.md"])
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text()
    said = re.findall(r"^make ([a-z ]+[a-z])|`make ([a-z ]+)`", text, re.MULTILINE)
    wanted = {word for pair in said for words in pair for word in words.split()}
    assert wanted - targets == set()


def test_the_notebook_is_stored_clean() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count] == []


def test_the_notebook_runs_on_nano(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=place).execute()
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    used = set(re.findall(r"pj\.(\w+)\(", text))
    assert used == set(importlib.import_module("prompt_jax").__all__)
