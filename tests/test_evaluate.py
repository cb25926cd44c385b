"""Decoding a split and scoring it; that the eval verb agrees with training is in test_train.py."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from prompt_jax.backbone import load_backbone
from prompt_jax.data import Data
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluation, TaskScorer, evaluate_prompt, write_predictions
from prompt_jax.layout import PromptLayout
from prompt_jax.methods.base import FixedPrompt, PromptedT5
from prompt_jax.sharding import MeshShape

tiny = runpy.run_path(str(Path(__file__).with_name("tiny.py")))["tiny"]


def scorer(tiny, batch_size: int, layout=PromptLayout(), max_examples=None) -> TaskScorer:  # noqa: B008
    data = Data(task=str(tiny / "toy.train.jsonl"), input_length=28, target_length=4, batch_size=1)
    evaluation = Evaluation(period=1, batch_size=batch_size, max_examples=max_examples)
    words = load_backbone(f"files:{tiny}/backbone", "float32").vocabulary
    return evaluation.open(evaluation.read(data), words, layout, 0, MeshShape().build())


@pytest.fixture(scope="module")
def bare(tiny):
    model = load_backbone(f"files:{tiny}/backbone", "float32").model
    return nnx.split(PromptedT5(model, FixedPrompt(None)))


def test_the_size_of_a_batch_changes_nothing(tiny, bare):
    graphdef, params = bare
    told = [scorer(tiny, size)(graphdef, nnx.State({}), params) for size in (8, 64)]
    assert told[0] == told[1]
    metrics, rows = told[0]
    assert set(metrics) == {"accuracy"}
    assert [row["inputs"] for row in rows] == [f"say {'ab'[i % 2]} {i}" for i in range(60)]


def test_a_batch_is_rounded_up_to_the_devices(tiny):
    assert scorer(tiny, 3).batch_size == len(jax.devices())


def test_prompt_columns_go_where_the_layout_says(tiny):
    layout = PromptLayout(encoder=2, placement="suffix")
    batch = scorer(tiny, 8, layout)._batch([np.array([7, 8, 1], np.int32)], 0)
    assert batch["encoder_input_tokens"].shape == (8, 28 + 2)
    assert batch["encoder_input_tokens"][0, :6].tolist() == [7, 8, 1, 0, 0, 0]
    assert batch["encoder_prompt_slots"][0, :6].tolist() == [0, 0, 0, 1, 2, 0]
    assert batch["encoder_segment_ids"][0, :6].tolist() == [1, 1, 1, 1, 1, 0]
    assert not batch["encoder_segment_ids"][1:].any()


def test_only_the_first_examples(tiny, bare):
    graphdef, params = bare
    _, rows = scorer(tiny, 8, max_examples=5)(graphdef, nnx.State({}), params)
    assert len(rows) == 5


def test_it_can_be_left_between_batches(tiny, bare):
    class Enough(Exception):
        pass

    def between():
        raise Enough

    with pytest.raises(Enough):
        scorer(tiny, 8)(bare[0], nnx.State({}), bare[1], between)


def test_predictions_are_written_as_they_are(tmp_path):
    rows = [{"inputs": "é", "prediction": "a\nb"}]
    write_predictions(epath.Path(tmp_path), "step_0", rows)
    text = (tmp_path / "predictions" / "step_0.jsonl").read_text()
    assert "é" in text
    assert [json.loads(line) for line in text.splitlines()] == rows
    write_predictions(epath.Path(tmp_path), "step_1", [])
    assert not (tmp_path / "predictions" / "step_1.jsonl").exists()


def test_a_bare_backbone_is_evaluated_too(tiny):
    told = evaluate_prompt(
        backbone=f"files:{tiny}/backbone", prompt=None, task=str(tiny / "toy.train.jsonl"),
        split="validation", max_examples=8, input_length=28, target_length=4, dtype="float32",
    )  # fmt: skip
    assert (told["split"], told["examples"]) == ("validation", 8)
    assert 0 <= told["accuracy"] <= 100


def test_a_backbone_without_a_tokenizer_is_refused(shared):
    with pytest.raises(UserError, match="no vocabulary: bind VOCABULARY"):
        evaluate_prompt(
            backbone=f"hf:{shared}/golden/hf/t5_v11", prompt=None, task="vader_polarity",
            split="validation",
        )  # fmt: skip
