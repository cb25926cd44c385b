"""PTEC: a head of labels on the decoder's first state, which answers in the decoder's place."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from prompt_jax.answer.answerer import Answering
from prompt_jax.errors import UserError
from prompt_jax.evaluate.infer import infer
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts
from prompt_jax.export.merge import export_merged
from prompt_jax.export.run import export_prompt
from prompt_jax.objective.heads import AnsweringHead
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.ptec import of_labels
from prompt_jax.prompt.artefact import save_beside
from prompt_jax.recipe import config
from prompt_jax.run.log import read_metrics
from prompt_jax.run.settings import Train
from prompt_jax.run.train import train
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.table import read_entry

ROWS = ["a", "b", "a; b", "b", "", "a; b", "b", "b"]


def test_the_loss_is_that_of_the_formula():
    """By hand: logits 0 and ln 3 are 1/2 and 3/4; the first label is there and weighs 3, the second
    is not: (3 ln 2 + ln 4) / 2. The second row is empty."""
    logits = jnp.asarray([[0.0, np.log(3)], [5.0, 5.0]])
    wanted, positive = jnp.asarray([[1.0, 0], [0, 0]]), jnp.asarray([[3.0, 1], [3, 1]])
    value = of_labels(logits, wanted, positive, jnp.asarray([True, False]))
    np.testing.assert_allclose(value, (3 * np.log(2) + np.log(4)) / 2, rtol=1e-6)


def test_a_loss_of_weight_0_counts_and_is_not_minimised():
    batch = {"decoder_target_tokens": jnp.ones((1, 2), jnp.int32)}
    logits = jnp.asarray([[[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]])
    total, sums = Loss(weight=0.0).of(logits, batch)
    assert float(total) == 0 and float(sums["loss"]) > 0


def recipe(tiny: Path, folder: Path, *bindings: str) -> Train:
    for split in ("train", "validation"):
        rows = [{"inputs": f"say {n}", "targets": t} for n, t in enumerate(ROWS)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"rows.{split}.jsonl").write_text(text)
    shrunk = [
        f"BACKBONE='files:{tiny}/backbone'",
        f"TASK='{folder}/rows.train.jsonl'",
        "INPUT_LENGTH=12",
        "TARGET_LENGTH=8",
        "BATCH_SIZE=8",
        "TRAIN_STEPS=3",
        "EVAL_PERIOD=3",
        "CHECKPOINT_PERIOD=3",
        "PROMPT_LENGTH=2",
        "SoftPrompt.init=@SampledVocabInit()",
        "SoftPrompt.decoder_length=1",
        "PTEC.separator='; '",
    ]
    return config.load("Train", ["runs/ptec_nano.gin"], [*shrunk, *bindings]).root


def test_prompt_and_head_train_are_saved_and_answer_again(tiny, tmp_path):
    run = recipe(tiny, tmp_path, "LABELS=('a','b')")
    train(run, str(tmp_path / "D"))
    saved = tmp_path / "D" / "prompt" / "last"
    head = safetensors.numpy.load_file(saved / "terms.safetensors")
    said = json.loads(head.pop("PTEC/labels").tobytes())
    assert said == {"labels": ["a", "b"], "separator": "; "}
    assert {n: x.shape for n, x in head.items()} == {"PTEC/kernel": (16, 2), "PTEC/bias": (2,)}
    assert all(np.abs(x).max() > 0 for x in head.values())
    lines = (tmp_path / "D" / "predictions" / "step_3.jsonl").read_text().splitlines()
    by_head, asked = Answering(mode="head"), opening(run.backbone.name, [str(saved)])
    _, again = evaluate_prompts(asked, run.data.task, "validation", answering=by_head)
    for row, other in zip(map(json.loads, lines), again, strict=True):
        assert row["prediction"] == other["prediction"]
        assert list(row["scores"].values()) == pytest.approx(list(other["scores"].values()))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"inputs": again[0]["inputs"]}) + "\n")
    infer(asked, str(rows), str(tmp_path / "answers.jsonl"), answering=by_head)
    answer = json.loads((tmp_path / "answers.jsonl").read_text())
    assert answer["prediction"] == again[0]["prediction"]
    for row in map(json.loads, lines):
        chosen = [label for label, x in row["scores"].items() if x > 0]
        likeliest = max(row["scores"], key=row["scores"].__getitem__)
        assert row["prediction"] == "; ".join(chosen or [likeliest])
    (last,) = [r for r in read_metrics(tmp_path / "D") if r["kind"] == "train"]
    # The weights of positives are 4/4 and 2/6: near the loss of a head that knows nothing.
    assert 0 < last["term/PTEC"] < 2


def test_a_prompt_that_answers_by_a_head_is_neither_served_nor_exported(tiny, kinds, tmp_path):
    """Refused before a backbone is read; without its head it is rows like others."""
    saved = tmp_path / "prompt"
    shutil.copytree(kinds["plain"], saved)
    arrays = AnsweringHead(16, ("a", "b"), ", ").arrays()
    save_beside(saved, {f"PTEC/{name}": value for name, value in arrays.items()})
    remedy = "answer with `prompt-jax infer --mode=head`, or copy it without terms.safetensors"
    with pytest.raises(UserError, match=f"head of labels, and the server has none; {remedy}"):
        Engine("files:nowhere", {"p": str(saved)})
    asked: dict[str, Any] = {"prompt": str(saved), "output": str(tmp_path / "out")}
    with pytest.raises(UserError, match=f"head of labels, and --format=t5x has none; {remedy}"):
        export_prompt(**asked, format="t5x")
    with pytest.raises(UserError, match="head of labels, and a merged backbone has none"):
        export_merged(**asked, format="hf")
    (saved / "terms.safetensors").unlink()
    assert read_entry(str(saved)).arrays.keys() == {"encoder"}
    with pytest.raises(UserError, match="no format has the head of PTEC; leave EXPORT_TO out"):
        recipe(tiny, tmp_path, "LABELS=('a','b')", "EXPORT_TO='npy'")


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["LABELS=('a','c')"], "row 2 has the label 'b', none of a, c; bind all labels"),
        (["LABELS=('a',)"], r"(?s)PTEC.labels.*give two or more, each once"),
    ],
)
def test_what_cannot_be_is_one_line(tiny, tmp_path, bindings, message):
    with pytest.raises(UserError, match=message):
        train(recipe(tiny, tmp_path, *bindings), str(tmp_path / "D"))


def test_a_prompt_without_a_head_cannot_answer_by_one(kinds, tiny, tmp_path):
    run = recipe(tiny, tmp_path, "LABELS=('a','b')")
    by_head = Answering(mode="head")
    for prompts, message in (([], "--mode=head"), ([kinds["plain"]], "has no head to answer by")):
        asked = opening(run.backbone.name, prompts)
        with pytest.raises(UserError, match=message):
            evaluate_prompts(asked, run.data.task, "validation", answering=by_head)


def test_the_mode_wants_a_head(tiny, tmp_path):
    whole = recipe(tiny, tmp_path, "LABELS=('a','b')")
    with pytest.raises(UserError, match="mode = 'head': answers by the head of a term"):
        dataclasses.replace(whole, terms=(), group_rates={}, loss=Loss())


def test_the_first_state_is_that_of_training(tiny):
    """What the head reads while it answers is what it reads while it trains."""
    from prompt_jax.backbone.load import load_backbone
    from prompt_jax.model import decode
    from prompt_jax.model.bundle import PromptBundle

    t5 = load_backbone(f"files:{tiny}/backbone", "float32").model
    tokens = np.asarray([[5, 6, 7, 1, 0]], np.int32)
    targets = np.asarray([[9, 8, 1]], np.int32)
    batch = {"encoder_input_tokens": tokens, "decoder_target_tokens": targets}
    batch["decoder_input_tokens"] = np.asarray([[0, 9, 8]], np.int32)
    wanted = jax.jit(lambda t5: t5.decoded(batch, PromptBundle()))(t5)[:, 0]
    seen = {"encoder_input_tokens": tokens}
    state = jax.jit(lambda t5: decode.first_state(t5, seen))(t5)
    np.testing.assert_allclose(state, wanted, rtol=1e-5, atol=1e-6)
