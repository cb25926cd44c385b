"""PEFT's adapters that work inside the layers of a T5: LORA, IA3 and PREFIX_TUNING, read alone.

They become the arrays of a bundle that give PEFT's own logits. A prefix of PEFT's is not that of Li
& Liang: it never reaches the encoder, its keys for cross-attention are thrown away when the model
runs, and a T5 of L layers sees only the parts 4l and 4l + 1 (modulo 2 L) of its 2 L in layer l, at
the positions before the text. It is imported as it was trained; ours is `methods/prefix.py`.

Names and formulas: PEFT 0.21.2.
"""

import re
from typing import Any

import numpy as np

from prompt_jax.errors import UserError

KINDS = ("LORA", "IA3", "PREFIX_TUNING")
_LAYER = re.compile(
    r"base_model\.model\.(encoder|decoder)\.block\.(\d+)\.layer\.\d+\."
    r"(SelfAttention|EncDecAttention|DenseReluDense)\.(\w+)\.(lora_A\.weight|lora_B\.weight|ia3_l)"
)
_BLOCKS = {"SelfAttention": "attention/", "EncDecAttention": "cross/", "DenseReluDense": ""}
_MATRICES = {"q": "query", "k": "key", "v": "value", "o": "out"}
_PLAIN = {  # settings of LORA that change its formula, and the value that does not
    "use_dora": False, "use_qalora": False, "lora_bias": False, "fan_in_fan_out": False,
    "bias": "none", "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None,
}  # fmt: skip


def convert(
    config: dict[str, Any], arrays: dict[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by the names of `bundle.py`, float32, and what the manifest says beside them.

    Raises:
      UserError: a kind of LORA with another formula, or an array of a part that is not known.
    """
    if config["peft_type"] == "PREFIX_TUNING":
        return _prefix(config, arrays, where), {"prefix_positions": "before"}
    if config["peft_type"] == "LORA":
        odd = [n for n, value in _PLAIN.items() if n in config and config[n] != value]
        if odd:
            told = f"{odd[0]} = {config[odd[0]]!r}"
            raise UserError(where, f"LORA with {told} has another formula", "use it through PEFT")
    found: dict[str, dict[int, np.ndarray]] = {}
    for name, value in arrays.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            raise UserError(where, f"{name!r} is no part of a T5's layers", "use it through PEFT")
        stack, layer, block, matrix, what = match.groups()
        place = f"{stack}_layers/{_BLOCKS[block]}{_MATRICES.get(matrix, matrix)}"
        field, part = _part(config, matrix, what, value.astype(np.float32))
        found.setdefault(f"{place}/{field}", {})[int(layer)] = part
    return {name: _stacked(layers, name, where) for name, layers in found.items()}, {}


def _part(config: dict[str, Any], matrix: str, what: str, value: np.ndarray):
    """A field of DenseEdit and its value for one layer."""
    if what == "ia3_l":
        inputs = matrix in (config["feedforward_modules"] or ())
        return "input_scale" if inputs else "output_scale", value.reshape(-1)
    if what == "lora_A.weight":
        return "a", value.T
    rank = config["r"] ** 0.5 if config["use_rslora"] else config["r"]
    return "b", value.T * np.float32(config["lora_alpha"] / rank)


def _stacked(layers: dict[int, np.ndarray], name: str, where: str) -> np.ndarray:
    if sorted(layers) != list(range(len(layers))):
        raise UserError(where, f"{name} is of layers {sorted(layers)} alone", "use it through PEFT")
    return np.stack([layers[n] for n in range(len(layers))])


def _prefix(config: dict[str, Any], arrays: dict[str, np.ndarray], where: str):
    table, layers, width = arrays["prompt_embeddings"], config["num_layers"], config["token_dim"]
    wanted = (config["num_virtual_tokens"], 2 * layers * width)
    if table.shape != wanted or config["num_transformer_submodules"] != 2:
        raise UserError(
            where,
            (
                f"prompt_embeddings is {list(table.shape)}, its configuration says "
                f"{list(wanted)} for 2 submodules"
            ),
            "copy it again",
        )
    parts = table.astype(np.float32).reshape(len(table), 2 * layers, width).transpose(1, 0, 2)
    first = [4 * n % (2 * layers) for n in range(layers)]
    return {
        "decoder_layers/attention/keys": parts[first],
        "decoder_layers/attention/values": parts[[n + 1 for n in first]],
    }
