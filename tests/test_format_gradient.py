"""The format gradient: what is shuffled, the cosine, and where it is measured in a run."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from prompt_jax.backbone.load import load_backbone
from prompt_jax.data.source import Data
from prompt_jax.errors import UserError
from prompt_jax.inspect.format_gradient import MOVED, make_cosine, measure, shuffled
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.full import NoPrompt
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.recipe import config
from prompt_jax.run.step import make_grad, split

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
script = importlib.import_module("format_gradient")
sys.path.pop(0)

RECIPE = """
include 'base.gin'
include 'methods/full.gin'

BACKBONE = 'files:{folder}/backbone'
TASK = '{folder}/toy.train.jsonl'
INPUT_LENGTH = 28
TARGET_LENGTH = 4
BATCH_SIZE = 8
TRAIN_STEPS = 2
EVAL_PERIOD = 2
Train.evaluation = None
Train.best_metric = None
Backbone.dtype = 'float32'
Backbone.dropout_rate = 0.0
"""


@pytest.fixture(scope="module")
def batch(tiny) -> dict[str, np.ndarray]:
    data = Data(
        task=f"{tiny}/toy.train.jsonl", input_length=28, target_length=4, batch_size=8, packed=False
    )
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    return data.open(backbone.vocabulary, PromptLayout(), seed=0).batch(0)


def test_targets_move_among_the_examples_of_a_task(batch) -> None:
    ids = np.array([0, 1] * 4, np.int32)[:, None]
    mixed = dict(batch)
    for side in ("encoder", "decoder"):
        mixed[f"{side}_task_ids"] = np.where(batch[f"{side}_segment_ids"] > 0, ids, 0)
    mixed["decoder_target_tokens"] = np.arange(32, dtype=np.int32).reshape(8, 4)
    moved = shuffled(mixed, seed=0, step=1)
    order = moved["decoder_target_tokens"][:, 0] // 4
    assert sorted(order) == list(range(8)) != list(order)
    assert np.array_equal(order % 2, ids[:, 0])
    for name, value in mixed.items():
        assert np.array_equal(moved[name], value[order] if name in MOVED else value), name
    assert np.array_equal(shuffled(mixed, 0, 1)["decoder_target_tokens"][:, 0] // 4, order)
    assert not np.array_equal(shuffled(mixed, 0, 2)["decoder_target_tokens"][:, 0] // 4, order)


def test_the_cosine_is_over_all_that_trains(batch, tiny) -> None:
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    graphdef, params, frozen = split(PromptedT5(backbone.model, NoPrompt()), nnx.Param)
    cosine, other = make_cosine(graphdef, Loss()), shuffled(batch, 0, 0)
    grad = jax.jit(make_grad(graphdef, Loss()))
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(grad(params, frozen, b, None)[0])])
        for b in (batch, other)
    ]
    expected = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert float(cosine(params, frozen, batch, other)) == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 0.9999
    assert float(cosine(params, frozen, batch, batch)) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_it_is_measured_at_the_steps_that_are_asked_for(tiny, tmp_path) -> None:
    (tmp_path / "full.gin").write_text(RECIPE.format(folder=tiny))

    def run(packed: bool):
        bindings = [f"Data.packed={packed}"]
        return config.load("Train", [str(tmp_path / "full.gin")], bindings).root

    told = []
    both = measure(run(False), str(tmp_path), (2, 0), batches=2, show=told.append)
    assert both == told and [found["step"] for found in both] == [0, 2]
    assert all(len(found["cosines"]) == 2 for found in both)
    assert both[0]["cosines"] != both[1]["cosines"]
    assert measure(run(False), str(tmp_path), (2,), batches=2, show=told.append) == both[1:]
    with pytest.raises(UserError, match=r"needs one example .*Data.packed=False"):
        measure(run(True), str(tmp_path), (0,))


@pytest.mark.slow
def test_the_script_says_each_step(tiny, tmp_path, capsys) -> None:
    (tmp_path / "full.gin").write_text(RECIPE.format(folder=tiny))
    asked = [f"--gin_file={tmp_path}/full.gin", "--batches=1"]
    assert script.main([*asked, "--steps=0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["step 0"]
    for steps, part in (("a", "give whole numbers with commas"), ("-1", "give some, of 0 or more")):
        assert script.main([*asked, f"--steps={steps}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("format_gradient: error: ") and error.count("\n") == 1
        assert part in error
