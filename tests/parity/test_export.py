"""Prompts that leave for PEFT and come from it: its own forward pass, in a process of its own."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_jax.backbone.load import load_backbone
from prompt_jax.cli.main import main
from prompt_jax.export import peft as format_peft
from prompt_jax.prompt.artefact import load_prompt, save_prompt

pytestmark = [
    pytest.mark.parity,
    # PEFT asks transformers for a property by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def test_peft_agrees_on_an_export_of_our_own_backbone(shared, tmp_path, capsys):
    """A T5 1.0 from T5X, whose logits are tied and scaled: PEFT gets a folder written for it."""
    name = f"t5x:{shared}/golden/t5x/v10_t5x/checkpoint_1000?family=t5_1_0"
    backbone = load_backbone(name, "float32")
    rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    facts = dict.fromkeys(("tokenizer", "task", "metric", "seed"))
    manifest = {
        "method": "SoftPrompt",
        "settings": {},
        "placement": "prefix",
        "visibility": {"input": True, "prompt": "all"},
        "backbone": {"name": name, "digest": backbone.digest},
        "step": 3,
        **facts,
    }
    save_prompt(tmp_path / "p", {"encoder": rows}, manifest)
    out = tmp_path / "adapter"
    assert main(["export", f"--prompt={tmp_path}/p", "--format=peft", f"--output={out}"]) == 0
    told = json.loads((out / "report.json").read_text())
    assert told["consumer"]["peft"] == "0.21.2" and told["logits_of"] == "peft"
    assert told["rows_max_abs_diff"] == 0.0
    assert 0.0 < told["logits_max_abs_diff"] < 2e-5 < 0.5 < told["logits_largest"]
    assert told["inputs"].startswith("random ids")


def test_a_golden_adapter_is_imported_as_peft_reads_it(shared, tmp_path):
    """Half of the rows that PEFT saves by default are never used, and do not come along."""
    source = shared / "golden" / "peft" / "v11_prompt_tuning"
    argv = ["import", f"--from={source}", "--format=peft", f"--output={tmp_path}/p"]
    assert main([*argv, f"--backbone=hf:{shared}/golden/hf/t5_v11"]) == 0
    prompt = load_prompt(tmp_path / "p")
    told = prompt.manifest["imported"]
    assert told["verified"] and told["logits_of"] == "peft"
    assert 0.0 < told["logits_max_abs_diff"] < 2e-5
    saved = load_file(source / format_peft.WEIGHTS)["prompt_embeddings"]
    assert (len(saved), len(prompt.array)) == (10, 5)
    np.testing.assert_array_equal(prompt.array, saved[:5])


def test_p_tuning_folds_to_its_rows(make_pair, batch, tmp_path):
    """What PEFT saves of P-tuning is the output of its MLP, and a plain prompt gives its logits."""
    import peft
    import torch

    import prompt_jax as pj

    pair = make_pair("t5_1_1")
    settings = peft.PromptEncoderConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, encoder_hidden_size=8
    )
    torch.manual_seed(0)
    tuned = peft.get_peft_model(pair.peer, settings)
    with torch.no_grad():
        for values in tuned.prompt_encoder.parameters():
            values.normal_(std=0.5)
    tuned.eval().save_pretrained(tmp_path)
    prompt = format_peft.read(str(tmp_path))
    tokens = torch.tensor(batch["encoder_input_tokens"]).long()
    with torch.no_grad():
        theirs = tuned(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        ).logits.numpy()
    real = batch["decoder_target_tokens"] > 0
    ours = pj.logits(pair.backbone, batch, prompt)[real]
    np.testing.assert_allclose(ours, theirs[real], rtol=0, atol=2e-5)
    assert np.abs(pj.logits(pair.backbone, batch)[real] - theirs[real]).max() > 0.1
