"""Whole models that leave, each run by its own `run.py` in a new process."""

import json

import pytest

from prompt_jax.cli.main import main
from prompt_jax.prompt.artefact import load_prompt, save_prompt

KINDS = ("plain", "both", "prefix", "lora", "ia3", "deep")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
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
