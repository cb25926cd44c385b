"""LoRA and (IA)3 merged into whole backbones; transformers reads them in tests/parity."""

import json

import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.backbone.load import load_backbone, read_arrays
from prompt_jax.cli.main import main
from prompt_jax.prompt.artefact import load_prompt


def test_what_is_merged_is_the_model_with_its_prompt(kinds, tiny, tmp_path, capsys):
    """Through the command, as T5X stores a backbone; bits and logits are in the report."""
    out = tmp_path / "checkpoint_5"
    argv = ["export", f"--prompt={kinds['lora']}", "--merge", "--format=t5x", f"--output={out}"]
    assert main([*argv, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "report.json").read_text())
    ours = record["prompt_jax reads"]
    assert ours["logits_max_abs_diff"] < 1e-5 * max(1, ours["logits_largest"])
    assert ours["greedy_rows_equal"] == 4 and record["arrays_equal"] > 20
    before = read_arrays(f"files:{tiny}/backbone")[1]
    after = read_arrays(f"t5x:{out}")[1]
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.rpartition("/kernel")[0].rpartition("/")[2] for name in changed} == {
        "query",
        "value",
    }
    assert after["token_embedder/embedding"].dtype == np.float32


def test_scales_are_merged_from_both_sides(kinds, tiny, tmp_path):
    out = tmp_path / "out"
    argv = ["export", f"--prompt={kinds['ia3']}", "--merge", "--format=hf", f"--output={out}"]
    assert main([*argv, "--unverified"]) == 0
    assert json.loads((out / "report.json").read_text())["verified"] is False
    batch = {"encoder_input_tokens": [[9, 8, 7, 1]], "decoder_input_tokens": [[0, 5]]}
    batch["decoder_target_tokens"] = [[5, 1]]
    tuned = load_backbone(f"files:{tiny}/backbone", "float32")
    wanted = pj.logits(tuned, batch, load_prompt(kinds["ia3"]))
    found = pj.logits(load_backbone(f"hf:{out}", "float32"), batch)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert np.abs(pj.logits(tuned, batch) - wanted).max() > 0.01


@pytest.mark.parametrize(
    "kind, argv, message",
    [
        ("plain", ["--merge", "--format=t5x"], "has encoder rows, which no weights can hold"),
        (
            "prefix",
            ["--merge", "--format=hf"],
            "attention/keys inside the layers, which no weights",
        ),
        ("lora", ["--merge", "--format=npy"], "--merge writes hf or t5x"),
        ("lora", ["--format=hf"], "--format=hf: is a backbone; give --merge too"),
    ],
)
def test_what_cannot_be_merged_says_so(kinds, tmp_path, capsys, kind, argv, message):
    argv = ["export", f"--prompt={kinds[kind]}", *argv, f"--output={tmp_path}/out"]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
