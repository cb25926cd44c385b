"""The method that docs/methods.md writes as an example is one: it trains and saves a prompt."""

import re
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.recipe.registered import REGISTERED, USERS, known
from prompt_jax.recipe.user_code import import_methods_module

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- (file): (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)


@pytest.fixture
def no_plugins() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(USERS)
    yield
    USERS.clear()
    USERS.update(before)


def test_the_method_of_the_docs_is_a_method(tiny: Path, tmp_path: Path, no_plugins) -> None:
    """Its file is short; --methods_module lets a recipe name it, train it and save its prompt."""
    (block,) = [b for b in BLOCK.findall((ROOT / "docs" / "methods.md").read_text())]
    assert block[:2] == ("file", "subspace_prompt.py") and len(block[2].splitlines()) <= 60
    assert (ROOT / "docs" / block[1]).read_text() == block[2]
    (tmp_path / block[1]).write_text(block[2])
    rows = [f'{{"inputs": "a {i}", "targets": "b"}}\n' for i in range(40)]
    (tmp_path / "toy.train.jsonl").write_text("".join(rows))
    recipe = f"""
    include 'base.gin'
    BACKBONE = 'files:{tiny}/backbone'
    TASK = '{tmp_path}/toy.train.jsonl'
    INPUT_LENGTH = 16
    TARGET_LENGTH = 4
    BATCH_SIZE = 8
    TRAIN_STEPS = 2
    EVAL_PERIOD = 2
    BEST_METRIC = None
    Train.method = @SubspacePrompt()
    SubspacePrompt.length = 4
    SubspacePrompt.rank = 2
    Train.optimizer = @AdamW()
    AdamW.schedule = @Schedule()
    Schedule.learning_rate = 0.1
    """
    (tmp_path / "r.gin").write_text(textwrap.dedent(recipe))
    flags = [f"--gin_file={tmp_path}/r.gin", f"--model_dir={tmp_path}/run"]
    flags += ["--gin.Train.evaluation=None"]
    assert main(["train", *flags]) == 2  # it is not built in
    assert main(["train", *flags, f"--methods_module={tmp_path}/{block[1]}"]) == 0
    saved = pj.load_prompt(str(tmp_path / "run" / "prompt" / "last"))
    assert saved.manifest["method"] == "SubspacePrompt" and saved.array.shape == (4, 16)
    assert np.linalg.matrix_rank(saved.array) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1", "has no class for recipes; mark one with @settings"),
        ("raise SystemExit(3)", "the module exits with 3 when it is imported"),
        (
            "from prompt_jax.settings import settings\n@settings\nclass LoRA:\n    rank: int = 1",
            "LoRA is registered already; give the class another name",
        ),
    ],
)
def test_modules_that_cannot_be_plug_ins(tmp_path: Path, no_plugins, text: str, problem: str):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as caught:
        import_methods_module(str(tmp_path / "mine.py"))
    assert str(caught.value).startswith(f"--methods_module={tmp_path}/mine.py: {problem}")


def test_a_package_declares_plug_ins_by_entry_points(monkeypatch):
    def declared(group: str) -> tuple[EntryPoint, ...]:
        return (EntryPoint(name, "mine.low:Mine", group),)

    name = "Mine"
    monkeypatch.setattr("prompt_jax.recipe.registered.entry_points", declared)
    assert known()["Mine"] == "mine.low:Mine" and known()["LoRA"] == REGISTERED["LoRA"]
    name = "LoRA"
    with pytest.raises(UserError, match=r"LoRA is built in, and mine\.low:Mine declares it too"):
        known()
