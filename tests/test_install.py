"""The wheel: what it carries, and that it works in a new environment away from the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from prompt_jax.version import __version__

ROOT = Path(__file__).parent.parent
SOURCES = {"prompt_jax": "prompt_jax", "gin": "prompt_jax/gin", "tasks": "prompt_jax/tasks"}
PIN = r"[\w.-]+==[\w.]+(; python_version (<|>=) \"3\.12\")?"
TOP_FILES = ("pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout and return its output; a failure shows its errors."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over in the checkout gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in TOP_FILES:
        shutil.copy(ROOT / name, copy / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, copy, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel; it borrows only the dependencies.

    A path in a .pth file is searched, but the .pth files inside it are not read. An editable
    install of the checkout is therefore invisible to this environment.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder)[:-1])
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet"]
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=folder)
    return python


def installed(root: Path, suffixes: tuple[str, ...]) -> set[str]:
    """Where a wheel must put every source file of the checkout that ends so."""
    return {
        f"{target}/{path.relative_to(root / name).as_posix()}"
        for name, target in SOURCES.items()
        for path in (root / name).rglob("*")
        if path.suffix in suffixes
    }


def test_wheel_carries_code_recipes_tasks_and_backbones(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = installed(ROOT, (".py", ".gin", ".safetensors", ".json", ".model"))
    assert wanted - names == set()
    nano = {"model.safetensors", "config.json", "spiece.model", "README.md"}
    assert {f"prompt_jax/backbones/nano/{name}" for name in nano} - names == set()
    assert "prompt_jax/gin/runs/quickstart.gin" in names


def test_wheel_carries_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "prompt_jax",
        f"prompt_jax-{__version__}.dist-info",
    }
    assert [name for name in names if re.search(r"gin/(.*/)?__init__\.py$|pycache", name)] == []
    assert wheel.stat().st_size < 25e6


def test_program_answers_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    assert "train" in run(python.parent / "prompt-jax", "--help", cwd=tmp_path)


def test_recipes_are_found_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    code = (
        "from prompt_jax.recipe.find import find_recipe; "
        "print(find_recipe('runs/quickstart.gin', ()))"
    )
    recipe = Path(run(python, "-c", code, cwd=tmp_path).strip())
    assert recipe.is_file()
    assert recipe.is_relative_to(python.parent.parent)


@pytest.mark.slow
def test_tasks_load_from_the_new_environment(python: Path, tmp_path: Path) -> None:
    code = "import prompt_jax.tasks.superglue as tasks; print(tasks.__file__)"
    loaded = Path(run(python, "-c", code, cwd=tmp_path).strip())
    assert loaded.is_relative_to(python.parent.parent)


PLUG_IN = {
    "term.py": """
import jax.numpy as jnp
from prompt_jax.objective.forwards import Forward
from prompt_jax.objective.terms import LossTerm
from prompt_jax.settings import settings

@settings
class SmallRows(LossTerm):
    weight: float = 0.1

    def open(self, vocabulary, layout):
        return lambda passes, batch: jnp.mean(passes[Forward()].bundle.encoder ** 2)
""",
    "tasks.py": """
from prompt_jax.metrics_text import accuracy
from prompt_jax.tasks.text import jsonl_task

jsonl_task("toy", {"train": "toy.jsonl", "validation": "toy.jsonl"}, metrics=[accuracy])
""",
    "run.gin": """
include 'base.gin'
BACKBONE = 'random:nano?seed=0'
VOCABULARY = 'bytes'
TASK = 'toy'
INPUT_LENGTH = 16
TARGET_LENGTH = 4
BATCH_SIZE = 8
TRAIN_STEPS = 2
EVAL_PERIOD = 2
BEST_METRIC = ('accuracy', 'max')
Train.method = @SubspacePrompt()
SubspacePrompt.length = 4
SubspacePrompt.rank = 2
Train.terms = (@SmallRows(),)
Train.optimizer = @AdamW()
AdamW.schedule = @Schedule()
Schedule.learning_rate = 0.1
""",
}


@pytest.mark.slow
def test_a_method_a_term_and_a_task_of_the_users_own(python: Path, tmp_path: Path) -> None:
    """From an installed wheel, in a folder of their own; the method is the file of the docs."""
    for name, text in PLUG_IN.items():
        (tmp_path / name).write_text(text)
    shutil.copy(ROOT / "docs" / "subspace_prompt.py", tmp_path)
    rows = [f'{{"inputs": "a {i}", "targets": "b"}}\n' for i in range(40)]
    (tmp_path / "toy.jsonl").write_text("".join(rows))
    program = [python.parent / "prompt-jax"]
    flags = ["--gin_file=run.gin", "--model_dir=run", "--tasks_module=tasks.py"]
    flags += ["--methods_module=subspace_prompt.py", "--methods_module=term.py", "--json"]
    last = json.loads(run(*program, "train", *flags, cwd=tmp_path))
    assert last["step"] == 2 and "accuracy" in last
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert any("term/SmallRows" in json.loads(line) for line in records)
    flags = ["--prompt=run/prompt/best", "--backbone=random:nano?seed=0", "--vocabulary=bytes"]
    flags += ["--task=toy", "--split=validation", "--tasks_module=tasks.py", "--json"]
    report = json.loads(run(*program, "eval", *flags, cwd=tmp_path))
    assert report["accuracy"] == last["accuracy"]


def test_import_is_light(python: Path, tmp_path: Path) -> None:
    heavy = {"jax", "flax", "numpy", "tensorflow", "seqio", "gin", "transformers"}
    code = f"import sys, prompt_jax; print(sorted({heavy} & set(sys.modules)))"
    assert run(python, "-c", code, cwd=tmp_path) == "[]\n"


def test_public_functions_survive_the_import_of_their_namesakes(
    python: Path, tmp_path: Path
) -> None:
    code = (
        "import prompt_jax, prompt_jax.run.train\n"
        "functions = [getattr(prompt_jax, name) for name in prompt_jax.__all__]\n"
        "print(all(map(callable, functions)), set(prompt_jax.__all__) <= set(dir(prompt_jax)))"
    )
    assert run(python, "-c", code, cwd=tmp_path) == "True True\n"


def test_unknown_public_name_is_refused() -> None:
    import prompt_jax

    with pytest.raises(AttributeError, match="'prompt_jax' has no attribute 'trian'"):
        prompt_jax.trian  # noqa: B018


def test_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(PIN, line)] == []
    pinned = {canonical(line) for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tested = [*project["dependencies"], *extras["quickstart"], *extras["test"]]
    wanted = {canonical(item) for item in tested}
    assert wanted - pinned == {"prompt-jax"}  # of whose extras `quickstart` is part of `test`
    base = {canonical(item) for item in project["dependencies"]}
    assert base & {"torch", "peft", "libtpu"} == set()
    assert "torch" not in pinned


def canonical(requirement: str) -> str:
    """The distribution a requirement names, spelt as pip compares it."""
    name = re.split(r"[\[<>=! ]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_said_alike() -> None:
    """In CITATION.cff and in the examples of launchers, as in `version.py`."""
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    for example in (ROOT / "launch" / "examples").glob("*.toml"):
        assert f"prompt_jax-{__version__}-py3-none-any.whl" in example.read_text()
        assert set(re.findall(r"prompt_jax-([\w.]+?)-py3", example.read_text())) == {__version__}


def test_a_shell_completes_verbs(python: Path, tmp_path: Path) -> None:
    asked = "_PROMPT_JAX_COMPLETE=complete_bash COMP_CWORD=1 COMP_WORDS='prompt-jax mig' "
    found = run("bash", "-c", asked + str(python.parent / "prompt-jax"), cwd=tmp_path)
    assert found.split() == ["migrate"]
