"""Whole models that leave, each run by its own `run.py` in a new process."""

import json

import numpy as np
import pytest

from prompt_jax.answer.arrays import greedy_ids
from prompt_jax.backbone.load import load_backbone
from prompt_jax.backbone.weights import arrays_of
from prompt_jax.cli.main import main
from prompt_jax.prompt.artefact import Prompt, load_prompt, save_prompt

KINDS = ("plain", "both", "prefix", "lora", "ia3", "deep")


@pytest.mark.parametrize(
    "kind", ["plain", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_stablehlo_is_run_by_jax_alone(kinds, tiny, tmp_path, capsys, kind):
    out = tmp_path / "out"
    argv = ["export", f"--prompt={kinds[kind]}", "--format=stablehlo", f"--output={out}"]
    inside = ["--weights_inside"] if kind == "ia3" else []
    task = [f"--task={tiny}/toy.train.jsonl"]
    assert main([*argv, *inside, *task, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "report.json").read_text())
    assert set(record["consumer"]) == {"jax", "jaxlib"} and record["logits_of"] == "jax"
    assert record["greedy_rows_equal"] == 4 and record["logits_max_abs_diff"] < 1e-4
    assert record["tokenizer"] == "the same ids for 4 texts"
    assert (out / "weights.npz").exists() != (kind == "ia3")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "decoder", "prefix", "lora", "ia3"])
def test_saved_model_is_run_by_tensorflow_alone(kinds, tiny, tmp_path, capsys, kind):
    out, source = tmp_path / "out", kinds.get(kind)
    if source is None:  # decoder rows, and the encoder's before the text
        both = load_prompt(kinds["both"])
        source = str(tmp_path / "p")
        save_prompt(source, both.arrays, {**both.manifest, "placement": "prefix"})
    argv = ["export", f"--prompt={source}", "--format=saved_model", f"--output={out}"]
    assert main([*argv, f"--task={tiny}/toy.train.jsonl", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["consumer"]) == {"tensorflow", "tensorflow-text"}
    assert record["greedy_rows_equal"] == 4 and record["logits_max_abs_diff"] < 1e-4
    assert record["tokenizer"] == "the same ids for 4 texts"
    assert b"XlaCallModule" not in (out / "saved_model.pb").read_bytes()


def test_a_step_of_tensorflow_decodes_one_column_over_a_cache(kinds, tiny, monkeypatch):
    """Behind the rows of a decoder prompt; the ids are ours."""
    from prompt_jax.export.tf_t5 import TFT5

    backbone, both = load_backbone(f"files:{tiny}/backbone", "float32"), load_prompt(kinds["both"])
    prompt = Prompt({"decoder": both.arrays["decoder"]}, both.manifest, both.path)
    model = TFT5(backbone.config, arrays_of(backbone.model), prompt.arrays, before=False)
    columns, decode = [], TFT5._decode

    def counted(self, seen, x, cache):
        columns.append(x.shape[1])
        return decode(self, seen, x, cache)

    monkeypatch.setattr(TFT5, "_decode", counted)
    tokens = np.array([[5, 6, 7, 1], [9, 1, 0, 0]], np.int32)
    wanted = greedy_ids(backbone, tokens, prompt, 6)
    np.testing.assert_array_equal(model.greedy(tokens, 6).numpy(), wanted)
    steps = max(np.argmax(row == 1) + 1 if 1 in row else 6 for row in wanted)
    assert columns == [len(prompt.arrays["decoder"]), *[1] * steps] and steps > 1


@pytest.mark.parametrize(
    "kind, format, message",
    [
        (
            "deep",
            "saved_model",
            "layers/rows, which --format=saved_model cannot express; take --format=orbax",
        ),
        ("both", "saved_model", "has placement 'suffix'"),
    ],
)
def test_what_cannot_leave_says_why(kinds, tmp_path, capsys, kind, format, message):
    argv = ["export", f"--prompt={kinds[kind]}", f"--format={format}", f"--output={tmp_path}/out"]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
