"""The fixture `tiny`, for the tests of whole runs."""

import json
from pathlib import Path

import pytest

RECIPE = """
include 'base.gin'
include 'methods/lester.gin'

BACKBONE = 'files:{folder}/backbone'
TASK = '{folder}/toy.train.jsonl'
INPUT_LENGTH = 28
TARGET_LENGTH = 4
PROMPT_LENGTH = 4
BATCH_SIZE = 8
TRAIN_STEPS = 8
EVAL_PERIOD = 4
CHECKPOINT_PERIOD = 4
Train.log_period = 2
Backbone.dtype = 'float32'
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of bytes (`backbone`), a task (`toy.*.jsonl`) and `run.gin`.

    Dropout is on, as by default, and examples are packed. Made once per session.
    """
    from prompt_jax.backbone import weights
    from prompt_jax.backbone.formats import files
    from prompt_jax.model import t5

    folder = tmp_path_factory.getbasetemp() / "tiny"
    if folder.exists():
        return folder
    folder.mkdir()
    config = t5.T5Config(264, 16, 2, 8, 32, 1, 1)
    files.write(
        str(folder / "backbone"), config, weights.arrays_of(weights.init(config, 0)), "bytes"
    )
    for split in ("train", "validation"):
        rows = [{"inputs": f"say {'ab'[i % 2]} {i}", "targets": "ab"[i % 2]} for i in range(60)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"toy.{split}.jsonl").write_text(text)
    (folder / "run.gin").write_text(RECIPE.format(folder=folder))
    return folder
