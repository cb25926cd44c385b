"""A prompt as PEFT's `adapter_config.json` and its arrays: the inverse of `peft_layers.py`.

Plain rows are PROMPT_TUNING. Products of low rank are LORA with the factor alpha / r in B and 1 in
the configuration; scales are IA3. A prefix is PREFIX_TUNING where PEFT runs it: keys of the
decoder's self-attention alone, at the positions before the text. Layer l reads the parts 4l and
4l + 1 (modulo 2 N) of a table of `num_layers` N. An odd N, L or L + 1, gives each of L layers parts
of its own.

Names and formulas: PEFT 0.21.2.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_jax.export.formats import beyond_rows
from prompt_jax.export.peft_layers import KEY, MODULES

if TYPE_CHECKING:
    from prompt_jax.model.t5 import T5Config
    from prompt_jax.prompt.artefact import Prompt

VERSION = "0.21.2"
KEYS, VALUES = "decoder_layers/attention/keys", "decoder_layers/attention/values"
Arrays = dict[str, np.ndarray]


def refusal(prompt: "Prompt") -> str | None:
    """What of a prompt no adapter of PEFT's can hold, in words."""
    inside = {name for name in prompt.arrays if "/" in name}
    fields = {_split(name)[1] for name in inside}
    if not inside:
        return beyond_rows(prompt)
    if rows := sorted(set(prompt.arrays) - inside):
        return f"{rows[0]} rows beside {min(inside)}"
    if fields <= {"keys", "values"}:
        return _prefix_refusal(prompt)
    if fields == {"a", "b"}:
        return None
    if fields <= {"input_scale", "output_scale"}:
        twice = [n for n in inside if n.replace("/output_", "/input_") in inside - {n}]
        return f"scales of both sides, {min(twice)}" if twice else None
    kinds = {"rows": "rows that enter layers", "added": "rows that enter layers"}
    first = min(fields - {"a", "b"})
    return kinds.get(first, f"{first} beside {min(fields)} inside the layers")


def _prefix_refusal(prompt: "Prompt") -> str | None:
    where = {_split(name)[0] for name in prompt.arrays}
    if "encoder_layers/attention" in where:
        return "keys of the encoder's attention, which PEFT's prefixes never reach"
    if "decoder_layers/cross" in where:
        return "keys of the attention to the encoder, which PEFT throws away"
    if prompt.prefix_positions != "before":
        return "keys at no position (PrefixTuning.positions), where PEFT's stand before the text"
    return None


def _split(name: str) -> tuple[str, str]:
    place, _, field = name.rpartition("/")
    return place, field


def adapter(
    prompt: "Prompt", base: str | None, config: "T5Config | None"
) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the arrays of a prompt that `refusal` does not refuse."""
    fields = {_split(name)[1] for name in prompt.arrays}
    if not any("/" in name for name in prompt.arrays):
        return _rows(prompt.array, base, config)
    if "keys" in fields:
        return _prefix(prompt, base, config)
    places = dict.fromkeys(_split(name)[0] for name in prompt.arrays)
    if "a" in fields:
        return _lora(prompt.arrays, places, base)
    return _ia3(prompt.arrays, places, base)


def _shared(kind: str, base: str | None) -> dict[str, Any]:
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": None,
        "peft_type": kind,
        "peft_version": VERSION,
        "revision": None,
        "task_type": "SEQ_2_SEQ_LM",
    }


def _rows(rows: np.ndarray, base: str | None, config: "T5Config | None"):
    settings = _shared("PROMPT_TUNING", base) | {
        "num_attention_heads": config and config.num_heads,
        "num_layers": config and config.num_encoder_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(rows),
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": rows.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    return dict(sorted(settings.items())), {KEY: rows}


def _prefix(prompt: "Prompt", base: str | None, config: "T5Config | None"):
    keys, values = prompt.arrays[KEYS], prompt.arrays[VALUES]
    length, width = keys.shape[1:]
    layers = len(keys) | 1
    table = np.zeros((2 * layers, length, width), np.float32)
    for layer, pair in enumerate(zip(keys, values, strict=True)):
        part = 4 * layer % (2 * layers)
        table[part : part + 2] = pair
    settings = _shared("PREFIX_TUNING", base) | {
        "encoder_hidden_size": None,
        "num_attention_heads": config and config.num_heads,
        "num_layers": layers,
        "num_transformer_submodules": 2,
        "num_virtual_tokens": length,
        "prefix_projection": False,
        "token_dim": width,
    }
    return settings, {KEY: table.transpose(1, 0, 2).reshape(length, -1)}


def _lora(arrays: Mapping[str, np.ndarray], places: Iterable[str], base: str | None):
    """B holds the factor of its prompt, so that alpha is the rank everywhere."""
    ranks = {place: arrays[f"{place}/a"].shape[-1] for place in places}
    most, stored = max(ranks.values()), {}
    for place in ranks:
        for layer, (a, b) in enumerate(
            zip(arrays[f"{place}/a"], arrays[f"{place}/b"], strict=True)
        ):
            module = f"base_model.model.{MODULES[place].format(layer)}"
            stored[f"{module}.lora_A.weight"] = np.ascontiguousarray(a.T)
            stored[f"{module}.lora_B.weight"] = np.ascontiguousarray(b.T)
    other = {_pattern([place]): rank for place, rank in ranks.items() if rank != most}
    settings = _shared("LORA", base) | {
        "alpha_pattern": other,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "r": most,
        "rank_pattern": other,
        "target_modules": _pattern(ranks),
        "use_dora": False,
        "use_rslora": False,
    }
    return settings, stored


def _ia3(arrays: Mapping[str, np.ndarray], places: Iterable[str], base: str | None):
    stored, inputs = {}, []
    for place in places:
        of_inputs = f"{place}/input_scale" in arrays
        inputs += [place] * of_inputs
        shape = (1, -1) if of_inputs else (-1, 1)
        scales = arrays[f"{place}/input_scale" if of_inputs else f"{place}/output_scale"]
        for layer, scale in enumerate(scales):
            module = f"base_model.model.{MODULES[place].format(layer)}"
            stored[f"{module}.ia3_l"] = scale.reshape(shape)
    settings = _shared("IA3", base) | {
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "feedforward_modules": _pattern(inputs) if inputs else [],
        "init_ia3_weights": True,
        "target_modules": _pattern(places),
    }
    return settings, stored


def _pattern(places: Iterable[str]) -> str:
    """A regular expression of the names of the modules at those places, in every layer."""
    each = (MODULES[place].replace(".", r"\.").format(r"\d+") for place in places)
    return "|".join(each)
