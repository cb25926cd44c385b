"""PEFT's adapters that work inside the layers: what cannot be read is named. Their logits are in
test_export.py."""

import json
import shutil

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.export import formats as exports
from prompt_jax.export import peft, peft_layers


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("lora", {"use_dora": True}, "LORA with use_dora = True has another formula"),
        ("lora", {"r": None}, "r is no whole number"),
        ("prefix_tuning", {"num_layers": 3}, r"is \[5, 256\], its configuration says \[5, 384\]"),
        ("ia3", {"peft_type": "ADALORA"}, "ADALORA is no prompt, it changes the weights"),
    ],
)
def test_adapters_of_layers_with_another_formula_say_so(shared, tmp_path, kind, changes, message):
    folder = tmp_path / "a"
    shutil.copytree(shared / "golden" / "peft" / f"v11_{kind}", folder)
    config = json.loads((folder / peft.CONFIG).read_text()) | changes
    (folder / peft.CONFIG).chmod(0o644)
    (folder / peft.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        peft.read(str(folder))


def test_an_adapter_of_another_part_is_named(shared):
    config = json.loads((shared / "golden" / "peft" / "v11_ia3" / peft.CONFIG).read_text())
    with pytest.raises(UserError, match=r"'base_model.model.lm_head.ia3_l' is no part of a T5's"):
        peft_layers.convert(config, {"base_model.model.lm_head.ia3_l": np.ones((3, 1))}, "a")
    one = {"base_model.model.encoder.block.1.layer.0.SelfAttention.k.ia3_l": np.ones((3, 1))}
    with pytest.raises(UserError, match=r"key/output_scale is of layers \[1\] alone"):
        peft_layers.convert(config, one, "a")


def test_what_works_inside_layers_is_no_plain_prompt(shared):
    prompt = peft.read(str(shared / "golden" / "peft" / "v11_lora"))
    with pytest.raises(UserError, match="query/a inside the layers, which --format=npy cannot"):
        exports.check_expressible("npy", prompt)
