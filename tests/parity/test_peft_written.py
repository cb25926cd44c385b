"""Every kind of prompt that PEFT can hold, written for it: its logits and greedy ids are ours."""

import json

import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.answer.arrays import greedy_ids
from prompt_jax.cli.main import main
from prompt_jax.export import peft as format_peft
from prompt_jax.export import peft_write
from prompt_jax.export.formats import About
from prompt_jax.model.bundle import axes_of
from prompt_jax.prompt.artefact import Prompt, save_prompt

pytestmark = [
    pytest.mark.parity,
    # PEFT asks transformers for a property by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
ATTENTIONS = ("encoder_layers/attention", "decoder_layers/attention", "decoder_layers/cross")
LORA = [f"{place}/{name}/{x}" for place in ATTENTIONS for name in ("query", "value") for x in "ab"]
MLP = ["decoder_layers/wi_0/a", "decoder_layers/wi_0/b"]
IA3 = [f"{place}/{name}/output_scale" for place in ATTENTIONS for name in ("key", "value")]
IA3 += ["encoder_layers/wo/input_scale", "decoder_layers/wo/input_scale"]
CASES = {
    "rows": ["encoder"],
    "lora": LORA,
    "lora, other ranks": [*LORA[:4], *MLP],
    "ia3": IA3,
    "prefix": [peft_write.KEYS, peft_write.VALUES],
    "prefix, two layers": [peft_write.KEYS, peft_write.VALUES],
}
KINDS = {"rows": "PROMPT_TUNING", "ia3": "IA3", "prefix": "PREFIX_TUNING"}


def noise(names, backbone) -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(4), {}
    for name in names:
        rank = 2 if "wi_0" in name else 3
        shape = [size or rank for size in axes_of(name, backbone.config)]
        centre = 1.0 if name.endswith("_scale") else 0.0
        arrays[name] = (centre + 0.4 * rng.normal(size=shape)).astype(np.float32)
    return arrays


@pytest.mark.parametrize("case", CASES)
def test_peft_runs_what_is_written(make_pair, batch, tmp_path, case):
    """An odd and an even number of layers, as PEFT has every layer of a prefix read other parts."""
    pair, kind = make_pair("flan_t5" if "two layers" in case else "t5_1_1"), case.partition(",")[0]
    seen = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    named = {"name": pair.backbone.name, "digest": pair.backbone.digest}
    positions = {"prefix_positions": "before"} if kind == "prefix" else {}
    arrays = noise(CASES[case], pair.backbone)
    prompt = Prompt(arrays, {**seen, **positions, "backbone": named, "task": "a_task"}, "p")
    assert format_peft.refusal(prompt) is None
    stored = format_peft.write(tmp_path / "out", prompt, About(named["name"], pair.backbone.config))
    request = {"folder": str(pair.folder), "tied": False, "texts": [], "max_length": 5}
    wide = {name: value.astype(np.int64) for name, value in batch.items()}
    found = format_peft.consume(str(tmp_path / "out"), {**request, "batch": wide})
    for name, values in stored.items():
        np.testing.assert_array_equal(found[name], values)
    real = batch["decoder_target_tokens"] > 0
    ours = pj.logits(pair.backbone, batch, prompt)[real]
    worst = np.abs(found["logits"][real] - ours).max() / np.abs(ours).max()
    assert worst <= 1e-5
    assert np.abs(pj.logits(pair.backbone, batch)[real] - ours).max() > 0.1
    tokens = batch["encoder_input_tokens"]
    np.testing.assert_array_equal(found["ids"], greedy_ids(pair.backbone, tokens, prompt, 5))
    again = format_peft.read(str(tmp_path / "out"))
    if case != "rows":
        again = format_peft.in_layers(again, pair.backbone)
    assert set(again.arrays) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_allclose(again.arrays[name], values, rtol=1e-6)
    written = json.loads((tmp_path / "out" / format_peft.CONFIG).read_text())["peft_type"]
    assert written == KINDS.get(kind, "LORA")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nbase_model: ") and "| task | a_task |" in card


def test_transformers_reads_a_merged_backbone(make_pair, tmp_path):
    """By the command, in a process of its own."""
    pair = make_pair("t5_1_1")
    facts = dict.fromkeys(("tokenizer", "task", "metric", "step", "seed"))
    seen = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    named = {"name": pair.backbone.name, "digest": pair.backbone.digest}
    about = {"method": "LoRA", "settings": {}, "backbone": named, **seen, **facts}
    save_prompt(tmp_path / "p", noise(LORA, pair.backbone), about)
    argv = ["export", f"--prompt={tmp_path}/p", "--format=hf", "--merge"]
    assert main([*argv, f"--output={tmp_path}/out"]) == 0
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    theirs = record["transformers reads"]
    assert theirs["logits_of"] == "transformers" and theirs["greedy_rows_equal"] == 4
    assert 0 < theirs["logits_max_abs_diff"] < 2e-5 * theirs["logits_largest"]
