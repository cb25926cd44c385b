"""Adapters that PEFT trained with its many settings: read here, they give PEFT's own logits."""

import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.cli.main import main
from prompt_jax.export import peft as format_peft
from prompt_jax.prompt.artefact import Prompt, load_prompt

pytestmark = [
    pytest.mark.parity,
    # PEFT asks transformers for a property by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
SEQ = {"task_type": "SEQ_2_SEQ_LM"}
QV = {**SEQ, "r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]}
MIXED = {"rank_pattern": {"0.layer.0.SelfAttention.q": 2}, "alpha_pattern": {r".*\.v": 3}}
READ = {
    "plain": ("LoraConfig", QV),
    "pissa": ("LoraConfig", {**QV, "init_lora_weights": "pissa"}),
    "olora": ("LoraConfig", {**QV, "init_lora_weights": "olora"}),
    "gaussian": ("LoraConfig", {**QV, "init_lora_weights": "gaussian"}),
    "orthogonal": ("LoraConfig", {**QV, "init_lora_weights": "orthogonal"}),
    "mica": ("LoraConfig", {**QV, "init_lora_weights": "mica"}),
    "no start": ("LoraConfig", {**QV, "init_lora_weights": False}),
    "dora": ("LoraConfig", {**QV, "use_dora": True}),
    "dora pissa": ("LoraConfig", {**QV, "use_dora": True, "init_lora_weights": "pissa"}),
    "rslora": ("LoraConfig", {**QV, "use_rslora": True}),
    "float alpha": ("LoraConfig", {**QV, "lora_alpha": 2.5}),
    "null task": ("LoraConfig", {**QV, "task_type": None}),
    "biases": ("LoraConfig", {**QV, "bias": "all"}),
    "regex": ("LoraConfig", {**QV, "target_modules": r"decoder.*EncDecAttention\.(k|o)|.*\.wi_1"}),
    "all": ("LoraConfig", {**QV, "target_modules": "all-linear"}),
    "some layers": ("LoraConfig", {**QV, "layers_to_transform": [1]}),
    "patterned layers": ("LoraConfig", {**QV, "layers_to_transform": 0, "layers_pattern": "block"}),
    "excluded": ("LoraConfig", {**QV, "exclude_modules": r"encoder.*"}),
    "ranks": ("LoraConfig", {**QV, **MIXED}),
    "fan in": ("LoraConfig", {**QV, "fan_in_fan_out": True}),
    "ia3": (
        "IA3Config",
        {**SEQ, "target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]},
    ),
    "ia3 regex": (
        "IA3Config",
        {**SEQ, "target_modules": r".*(\.k|\.v|\.wo)$", "feedforward_modules": r".*block.*\.wo$"},
    ),
    "ia3 outputs": ("IA3Config", {"target_modules": ["q", "wi_0"], "feedforward_modules": []}),
    "ia3 one stack": ("IA3Config", {**SEQ, "target_modules": r"decoder.*1.*\.k"}),
    "prefix": ("PrefixTuningConfig", {**SEQ, "num_virtual_tokens": 5}),
    "prefix, projected": (
        "PrefixTuningConfig",
        {**SEQ, "num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 6},
    ),
    "prompt, text": (
        "PromptTuningConfig",
        {**SEQ, "num_virtual_tokens": 4, "num_transformer_submodules": 1},
    ),
    "p-tuning lstm": (
        "PromptEncoderConfig",
        {
            **SEQ,
            "num_virtual_tokens": 4,
            "encoder_reparameterization_type": "LSTM",
            "encoder_hidden_size": 6,
        },
    ),
}


@pytest.mark.parametrize("case", READ)
def test_pefts_logits(make_pair, square, batch, tmp_path, case):
    pair = square if "prefix" in case else make_pair("t5_1_1")
    kind, settings = READ[case]
    theirs = peft_logits(pair, kind, settings, tmp_path, batch)
    found = format_peft.read(str(tmp_path))
    inside = format_peft.in_layers(found, pair.backbone) if "peft" in found.manifest else found
    named = {"name": pair.backbone.name, "digest": pair.backbone.digest}
    prompt = Prompt(inside.arrays, {**inside.manifest, "backbone": named}, str(tmp_path))
    if "peft" not in found.manifest:
        prompt = Prompt(found.arrays, {}, str(tmp_path))
    real = batch["decoder_target_tokens"] > 0
    ours, theirs = pj.logits(pair.backbone, batch, prompt)[real], theirs[real]
    bare = pj.logits(pair.backbone, batch)[real]
    assert np.abs(bare - theirs).max() > 1e-2 * np.abs(theirs).max()  # the adapter matters
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert worst <= (1e-3 if "pissa" in case else 1e-5)  # see peft.tolerance


CASES = ("peft_ia3_regex", "peft_lora_alpha_float", "peft_lora_some_layers", "peft_pissa")


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_users_are_imported_by_the_command(shared, tmp_path, case):
    folder, out = shared / "cases", tmp_path / "out"
    argv = ["import", f"--from={folder / case}", "--format=peft", f"--output={out}"]
    assert main([*argv, f"--backbone=hf:{folder / 'base_v11'}"]) == 0
    record = load_prompt(out).manifest["imported"]
    assert record["logits_of"] == "peft" and record["logits_largest"] > 1
    tolerance = 1e-3 if case == "peft_pissa" else 2e-5  # see peft.tolerance
    assert 0 < record["logits_max_abs_diff"] <= tolerance * record["logits_largest"]
    assert record["adapter_of"].startswith("base_v11 (--backbone=hf:")


def peft_logits(pair, kind, settings, folder, batch):
    """float32 [B, S, V] of an adapter with random values, saved to `folder` and loaded by PEFT."""
    import peft
    import torch
    from transformers import AutoModelForSeq2SeqLM

    def base():
        model = AutoModelForSeq2SeqLM.from_pretrained(pair.folder)
        model.config.tie_word_embeddings = pair.backbone.config.logits_via_embedding
        return model

    torch.manual_seed(3)
    fresh = peft.get_peft_model(base(), getattr(peft, kind)(**settings))
    with torch.no_grad():
        for name, values in fresh.named_parameters():
            if "magnitude" in name or "ia3" in name:
                values.uniform_(0.5, 1.5)
            elif "lora_" in name:
                values.add_(torch.randn_like(values), alpha=0.1)
            elif "prompt_encoder" in name:
                values.normal_(std=0.5)
    fresh.eval().save_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(base(), folder).eval()
    tokens = torch.tensor(batch["encoder_input_tokens"]).long()
    with torch.no_grad():
        return loaded(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        ).logits.numpy()
