"""The method that docs/methods.md writes as an example is one: it trains and saves a prompt."""

import re
import textwrap
from pathlib import Path

import numpy as np

import prompt_jax as pj
from prompt_jax.recipe.registered import REGISTERED

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- (file): (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)


def test_the_method_of_the_docs_is_a_method(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    """Its file is short, and a recipe that names it trains it and saves a plain prompt."""
    (block,) = [b for b in BLOCK.findall((ROOT / "docs" / "methods.md").read_text())]
    assert block[:2] == ("file", "low_rank_prompt.py") and len(block[2].splitlines()) <= 60
    assert (ROOT / "docs" / block[1]).read_text() == block[2]
    (tmp_path / block[1]).write_text(block[2])
    rows = [f'{{"inputs": "a {i}", "targets": "b"}}\n' for i in range(40)]
    (tmp_path / "toy.train.jsonl").write_text("".join(rows))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(REGISTERED, "LowRankPrompt", "low_rank_prompt:LowRankPrompt")
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
    Train.method = @LowRankPrompt()
    LowRankPrompt.length = 4
    LowRankPrompt.rank = 2
    Train.optimizer = @AdamW()
    AdamW.schedule = @Schedule()
    Schedule.learning_rate = 0.1
    """
    (tmp_path / "r.gin").write_text(textwrap.dedent(recipe))
    pj.train([str(tmp_path / "r.gin")], ["Train.evaluation=None"], str(tmp_path / "run"))
    saved = pj.load_prompt(str(tmp_path / "run" / "prompt" / "last"))
    assert saved.manifest["method"] == "LowRankPrompt" and saved.array.shape == (4, 16)
    assert np.linalg.matrix_rank(saved.array) == 2
