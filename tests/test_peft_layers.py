"""PEFT's adapters that work inside the layers: what cannot be read is named. Their logits are in
test_export.py."""

import json
import shutil

import numpy as np
import pytest

from prompt_jax.backbone.load import load_backbone
from prompt_jax.errors import UserError
from prompt_jax.export import formats as exports
from prompt_jax.export import peft, peft_layers


def changed(source, folder, **changes):
    """A copy of an adapter's folder with other fields in its configuration."""
    shutil.copytree(source, folder)
    config = json.loads((folder / peft.CONFIG).read_text()) | changes
    (folder / peft.CONFIG).chmod(0o644)
    (folder / peft.CONFIG).write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("lora", {"use_qalora": True}, "LORA with use_qalora = True: it averages groups of inputs"),
        ("lora", {"alora_invocation_tokens": [3]}, "only behind these tokens of the text; use it"),
        ("lora", {"new_field": 2}, "LORA with new_field = 2: it is not known here; use it through"),
        ("lora", {"init_lora_weights": "pissa_niter_4"}, "changed the weights by what is not in"),
        ("lora", {"init_lora_weights": "corda"}, "convert it to plain LoRA by PEFT"),
        ("lora", {"init_lora_weights": "new"}, "init_lora_weights = 'new' is not known here; use"),
        ("lora", {"lora_alpha": None}, "lora_alpha = None is not a number"),
        ("prefix_tuning", {"task_type": None}, "PEFT then runs the T5 without the prompt's rows"),
        (
            "prompt_tuning",
            {"num_virtual_tokens": 0},
            "num_virtual_tokens is not a whole number above",
        ),
        ("ia3", {"peft_type": "ADALORA"}, "ADALORA is not a prompt, it changes the weights"),
        (
            "ia3",
            {"peft_type": "VERA"},
            "VERA is not a prompt, it is none of PROMPT_TUNING, P_TUNING",
        ),
    ],
)
def test_configurations_with_another_formula_say_so(shared, tmp_path, kind, changes, message):
    folder = changed(shared / "golden" / "peft" / f"v11_{kind}", tmp_path / "a", **changes)
    with pytest.raises(UserError, match=message):
        peft.read(folder)


@pytest.fixture(scope="module")
def backbone(shared):
    return load_backbone(f"hf:{shared}/golden/hf/t5_v11", "float32")


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("prefix_tuning", {"num_layers": 3}, r"is \[5, 256\], its configuration says \[5, 384\]"),
        ("prefix_tuning", {"num_transformer_submodules": 1}, "submodules is 1: PEFT then shows"),
    ],
)
def test_prefixes_of_another_shape_say_so(shared, tmp_path, backbone, kind, changes, message):
    folder = changed(shared / "golden" / "peft" / f"v11_{kind}", tmp_path / "a", **changes)
    with pytest.raises(UserError, match=message):
        peft.in_layers(peft.read(folder), backbone)


@pytest.mark.parametrize(
    "name, message",
    [
        ("lm_head.ia3_l", "'lm_head' is not a matrix of a T5's layers; use it through PEFT"),
        (
            "encoder.block.7.layer.0.SelfAttention.k.ia3_l",
            "not a matrix of this backbone; give the",
        ),
        ("encoder.block.0.layer.1.DenseReluDense.wi.ia3_l", "wi' is not a matrix of this backbone"),
        ("encoder.block.0.layer.0.SelfAttention.k.ia3_l", r"k' has scale \[3, 1\] for a matrix"),
        ("encoder.block.0.layer.0.SelfAttention.k.lora_A.weight", r"has \['a'\] alone; copy it"),
        ("encoder.block.0.layer.0.SelfAttention.k.hada", "k.hada' is not a part of a T5's layers"),
    ],
)
def test_an_array_of_another_part_is_named(shared, backbone, name, message):
    config = json.loads((shared / "golden" / "peft" / "v11_ia3" / peft.CONFIG).read_text())
    arrays = {f"base_model.model.{name}": np.ones((3, 1))}
    with pytest.raises(UserError, match=message):
        peft_layers.convert(config, arrays, backbone.model, "a")


def test_some_layers_and_ranks_are_padded(shared, backbone):
    """Layers without an array do nothing; a smaller rank is filled with zeros."""
    config = json.loads((shared / "golden" / "peft" / "v11_lora" / peft.CONFIG).read_text())
    ranks = {"encoder.block.0.layer.0.SelfAttention.q": 2}
    config |= {"r": 3, "rank_pattern": ranks, "target_modules": ["q"]}
    place = "base_model.model.encoder.block.{}.layer.0.SelfAttention.q"
    width, inner = backbone.config.emb_dim, backbone.config.num_heads * backbone.config.head_dim
    arrays = {}
    for layer, rank in ((0, 2), (1, 3)):
        arrays[f"{place.format(layer)}.lora_A.weight"] = np.ones((rank, width))
        arrays[f"{place.format(layer)}.lora_B.weight"] = np.ones((inner, rank))
    both, _ = peft_layers.convert(config, arrays, backbone.model, "a")
    a, b = (both[f"encoder_layers/attention/query/{field}"] for field in "ab")
    assert a.shape == (2, width, 3) and b.shape == (2, 3, inner)
    assert not a[0, :, 2].any() and not b[0, 2].any() and a[1].all() and b[1].all()
    second = {name: value for name, value in arrays.items() if ".1." in name}
    alone, _ = peft_layers.convert(config, second, backbone.model, "a")
    assert not alone["encoder_layers/attention/query/b"][0].any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"r": 7}, "has rank 4, its configuration says 7; copy the adapter again"),
        ({"rank_pattern": {"q": 2}}, "q' has rank 4, its configuration says 2"),
        ({"use_dora": True}, r"use_dora is True, and .* has \['a', 'b'\]"),
        ({"target_modules": ["q"]}, "has arrays of .*, which target_modules leaves out"),
        ({"exclude_modules": r".*\.v"}, "v', which exclude_modules leaves out"),
    ],
)
def test_a_configuration_that_says_otherwise_than_the_arrays(
    shared, tmp_path, backbone, changes, message
):
    folder = changed(shared / "golden" / "peft" / "v11_lora", tmp_path / "a", **changes)
    with pytest.raises(UserError, match=message):
        peft.in_layers(peft.read(folder), backbone)


def test_what_works_inside_layers_is_no_plain_prompt(shared, backbone):
    prompt = peft.in_layers(peft.read(str(shared / "golden" / "peft" / "v11_lora")), backbone)
    with pytest.raises(UserError, match="query/a inside the layers, which --format=npy cannot"):
        exports.check_expressible("npy", prompt)
