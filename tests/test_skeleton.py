"""SKIP: what is cut out of a backbone is what a gate of 0 takes away."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import load_backbone, read_arrays
from prompt_jax.cli.main import main
from prompt_jax.methods.base import FixedPrompt, PromptedT5
from prompt_jax.model.bundle import bundle_of
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.recipe import config
from prompt_jax.run.cut import cut_out
from prompt_jax.run.stages import resolved, shaped

PROGRAM = """
include 'run.gin'

TRAIN_STEPS = 2
EVAL_PERIOD = 2
CHECKPOINT_PERIOD = 2
Evaluation.max_examples = 8
Backbone.dropout_rate = 0.0
Stages.stages = (@whole/Stage(), @skeleton/Stage())
Stage.run = @Train()
whole/Stage.on_end = (@PruneNeurons(),)
PruneNeurons.keep = 0.5
PruneNeurons.keep_heads = 0.5
PruneNeurons.batches = 1
"""


def test_a_smaller_backbone_gives_the_logits_of_one_with_gates_at_zero(tiny):
    name = f"files:{tiny}/backbone"
    whole, arrays = read_arrays(name)
    F, H, K, rng = whole.mlp_dim, whole.num_heads, whole.head_dim, np.random.default_rng(0)
    layers = {"encoder": whole.num_encoder_layers, "decoder": whole.num_decoder_layers}
    chosen, scales = {}, {}
    for stack, L in layers.items():
        for part, count, most in (("wo", F, F // 2), ("attention", H, 1), ("cross", H, 1)):
            if (stack, part) == ("encoder", "cross"):
                continue
            some = [np.sort(rng.permutation(count)[:most]) for _ in range(L)]
            place = f"{stack}_layers/{part}"
            chosen[place] = np.stack([some[0]] * L if part == "attention" else some)
            gates = np.zeros((L, count), np.float32)
            np.put_along_axis(gates, chosen[place], 1.0, axis=1)
            at = place if part == "wo" else f"{place}/out"
            scales[f"{at}/input_scale"] = gates if part == "wo" else gates.repeat(K, axis=1)
    less = dataclasses.replace(whole, mlp_dim=F // 2, num_heads=1, dtype="float32")
    small = weights.build(less, cut_out(arrays, chosen, whole))
    batch = {
        "encoder_input_tokens": np.array([[5, 6, 7, 1]]),
        "decoder_input_tokens": np.array([[0, 5, 6]]),
        "decoder_target_tokens": np.array([[5, 6, 1]]),
    }
    for side in ("encoder", "decoder"):
        tokens = batch["encoder_input_tokens" if side == "encoder" else "decoder_target_tokens"]
        batch[f"{side}_segment_ids"] = np.ones_like(tokens)
        batch[f"{side}_positions"] = np.arange(tokens.shape[1])[None]
        batch[f"{side}_prompt_slots"] = np.zeros_like(tokens)
    batch = jax.tree.map(np.int32, batch)
    big = load_backbone(name, "float32").model
    gated = PromptedT5(big, FixedPrompt(bundle_of(scales)))(batch)
    np.testing.assert_allclose(PromptedT5(small, FixedPrompt())(batch), gated, atol=1e-5)
    assert np.abs(np.asarray(gated - PromptedT5(big, FixedPrompt())(batch))).max() > 1e-3


@pytest.mark.slow
def test_the_next_stage_tunes_the_prompt_of_the_smaller_backbone(tiny, tmp_path):
    (tmp_path / "skip.gin").write_text(PROGRAM)
    recipe, model_dir = str(tmp_path / "skip.gin"), tmp_path / "D"
    where = f"--gin_search_paths={tiny}"
    assert main(["train", f"--gin_file={recipe}", f"--model_dir={model_dir}", where]) == 0
    folder = model_dir / "stage_1" / "skeleton"
    small = load_backbone(f"files:{folder}", "float32")
    whole = load_backbone(f"files:{tiny}/backbone", "float32")
    assert small.config.mlp_dim == whole.config.mlp_dim // 2
    assert small.config.num_heads == whole.config.num_heads // 2
    begun = load_prompt(str(model_dir / "stage_1" / "prompt" / "skeleton"))
    before = load_prompt(str(model_dir / "stage_1" / "prompt" / "best"))
    assert begun.array.tobytes() == before.array.tobytes()
    after = load_prompt(str(model_dir / "stage_2" / "prompt" / "last"))
    for prompt in (begun, after):
        assert prompt.manifest["backbone"]["digest"] == small.digest
    kept = json.loads((folder / "manifest.json").read_text())["kept"]["encoder_layers/wo"]
    wo = whole.model.encoder.layers.mlp.wo.kernel[...]
    for layer, numbers in enumerate(kept):
        left = small.model.encoder.layers.mlp.wo.kernel[...][layer]
        np.testing.assert_array_equal(left, np.asarray(wo[layer])[np.array(numbers)])
    program = config.load(("Stages", "Train"), [recipe], [], [str(tiny)]).root
    assert [run.backbone.name for run in resolved(program, epath.Path(model_dir))][1:] == [
        f"files:{folder}"
    ]
    assert len({run.backbone.name for run in shaped(program)}) == 1


def test_shares_and_methods_that_cannot_be_are_refused(tiny, tmp_path, capsys):
    (tmp_path / "skip.gin").write_text(PROGRAM)
    argv = ["train", f"--gin_file={tmp_path}/skip.gin", f"--gin_search_paths={tiny}"]
    argv.append(f"--model_dir={tmp_path}/D")
    assert main([*argv, "--gin.PruneNeurons.keep=0.0"]) == 2
    assert "PruneNeurons.keep = 0.0: give more than 0, at most 1" in capsys.readouterr().err
    assert main([*argv, "--gin.skeleton/Train.method=@LoRA()"]) == 2
    assert "trains LoRA, which does not begin with a saved prompt" in capsys.readouterr().err
