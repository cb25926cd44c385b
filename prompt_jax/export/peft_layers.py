"""PEFT's adapters that work inside the layers of a T5: LORA, IA3 and PREFIX_TUNING, read.

They become the arrays of a bundle that give PEFT's own logits. A prefix of PEFT's is not that of Li
& Liang: it never reaches the encoder, its keys for cross-attention are thrown away when the model
runs, and layer l sees only the parts 4l and 4l + 1 (modulo 2 N) of a table of `num_layers` N, at
the positions before the text. It is imported as it was trained; ours is `methods/prefix.py`.

LoRA's B is read with its factor alpha / r (alpha / sqrt(r) for rsLoRA). DoRA is LoRA with a scale
of each output. PiSSA and OLoRA take a part of the weights out when PEFT loads them: that part is
found again in the backbone and subtracted, as a second product of rank r.

Names and formulas: PEFT 0.21.2.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5

KINDS = ("LORA", "IA3", "PREFIX_TUNING")
KEY = "prompt_embeddings"
THROUGH_PEFT, OTHER_T5 = "use it through PEFT", "give the backbone that it was tuned for"
COPY = "copy the adapter again"
_MODULE = re.compile(
    r"(encoder|decoder)\.block\.(\d+)\.layer\.\d+\."
    r"(SelfAttention|EncDecAttention|DenseReluDense)\.(\w+)"
)
_FIELDS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_magnitude_vector": "magnitude",
    "ia3_l": "scale",
}
_BLOCKS = {"SelfAttention": "attention/", "EncDecAttention": "cross/", "DenseReluDense": ""}
_MATRICES = {"q": "query", "k": "key", "v": "value", "o": "out"}
_KERNELS = {  # where the T5 has the matrices of a block
    "encoder_layers/attention/": "encoder/layers/attention",
    "encoder_layers/": "encoder/layers/mlp",
    "decoder_layers/attention/": "decoder/layers/self_attention",
    "decoder_layers/cross/": "decoder/layers/encoder_decoder_attention",
    "decoder_layers/": "decoder/layers/mlp",
}


def _modules() -> dict[str, str]:
    """Place of a bundle's arrays -> module of every layer, by its name in transformers."""
    blocks = {
        ("encoder", "SelfAttention"): 0,
        ("encoder", "DenseReluDense"): 1,
        ("decoder", "SelfAttention"): 0,
        ("decoder", "EncDecAttention"): 1,
        ("decoder", "DenseReluDense"): 2,
    }
    modules = {}
    for (stack, block), number in blocks.items():
        mlp = {name: name for name in ("wi", "wi_0", "wi_1", "wo")}
        for theirs, ours in (mlp if block == "DenseReluDense" else _MATRICES).items():
            name = f"{stack}.block.{{}}.layer.{number}.{block}.{theirs}"
            modules[f"{stack}_layers/{_BLOCKS[block]}{ours}"] = name
    return modules


MODULES = _modules()

# Every field of a configuration: used here, seen in the arrays' names and shapes, without an effect
# on a finished adapter, or another formula.
_SHARED = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "modules_to_save",
}
_ROWS = {
    "num_virtual_tokens",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
}
READ = {
    "PROMPT_TUNING": _SHARED
    | _ROWS
    | {
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
    },
    "P_TUNING": _SHARED
    | _ROWS
    | {
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
    },
    "PREFIX_TUNING": _SHARED
    | _ROWS
    | {
        "init_weights",
        "encoder_hidden_size",
        "prefix_projection",
    },
    "IA3": _SHARED
    | {
        "target_modules",
        "exclude_modules",
        "feedforward_modules",
        "fan_in_fan_out",
        "init_ia3_weights",
    },
    "LORA": _SHARED
    | {
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "use_rslora",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "use_dora",
        "velora_config",
        "qalora_group_size",
        "monteclora_config",
        "runtime_config",
        "ensure_weight_tying",
    },
}
STARTS = (  # those that change no weight, or of which `_taken_out` knows how
    "true",
    "false",
    "gaussian",
    "eva",
    "lora_ga",
    "mica",
    "olora",
    "orthogonal",
    "pissa",
)
OTHER_FORMULA = {  # fields that must be empty, and what they do otherwise
    "use_qalora": "it averages groups of inputs",
    "lora_bias": "it adds a bias",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "it works only behind these tokens of the text",
    "arrow_config": "it chooses between adapters",
    "kasa_config": "it changes the weights by their singular values",
    "use_bdlora": "its matrices have blocks",
    "target_parameters": "it changes arrays that are not matrices of a layer",
    "trainable_token_indices": "it trains embeddings of tokens",
    "megatron_config": "it is of a model in parts",
}


def check_fields(config: Mapping[str, Any], where: str) -> None:
    """Every field of adapter_config.json is one that this module knows what to do with.

    Raises:
      UserError: one that is set and unknown, or that gives the adapter another formula.
    """
    kind = config["peft_type"]
    for name, value in config.items():
        if name in READ[kind] or not value:
            continue
        why = OTHER_FORMULA.get(name, "it is not known here")
        shown = " ".join(repr(value).split())[:60]
        raise UserError(where, f"{kind} with {name} = {shown}: {why}", THROUGH_PEFT)
    for name in ("r", "lora_alpha") if kind == "LORA" else ():
        value = config.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(where, f"{name} = {value!r} is not a number", COPY)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(("corda", "loftq", "pissa_niter")):
        problem = f"init_lora_weights = {start!r} changed the weights by what is not in the folder"
        raise UserError(where, problem, "convert it to plain LoRA by PEFT, and save it again")
    if start is not None and str(start).lower() not in STARTS:
        raise UserError(where, f"init_lora_weights = {start!r} is not known here", THROUGH_PEFT)


def convert(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model: T5, where: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An adapter's arrays, by PEFT's names, as those of a bundle for this T5.

    Returns:
      (float32 arrays by the names of `bundle.py`, what the manifest says beside them).

    Raises:
      UserError: an array of a part that is not known, or of another T5.
    """
    if config["peft_type"] == "PREFIX_TUNING":
        converted = _prefix(config, arrays, model.config.num_decoder_layers, where)
        return converted, {"prefix_positions": "before"}
    kernels = {
        "/".join(str(part) for part in path): value.get_value()
        for path, value in nnx.to_flat_state(nnx.state(model))
    }
    places: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for module, fields in _by_module(arrays, where).items():
        match = _MODULE.fullmatch(module)
        if match is None:
            raise UserError(where, f"{module!r} is not a matrix of a T5's layers", THROUGH_PEFT)
        stack, layer, block, matrix = match.groups()
        start, name = f"{stack}_layers/{_BLOCKS[block]}", _MATRICES.get(matrix, matrix)
        path = f"{_KERNELS.get(start)}/{name}/kernel"
        if path not in kernels or int(layer) >= len(kernels[path]):
            raise UserError(where, f"{module!r} is not a matrix of this backbone", OTHER_T5)
        kernel = np.asarray(kernels[path][int(layer)], np.float32)
        _check_sizes(fields, kernel, module, where)
        _check_against(config, module, fields, where)
        edit = _lora if "a" in fields else _ia3
        places.setdefault(f"{start}{name}", {})[int(layer)] = edit(config, module, fields, kernel)
    sides = {"encoder": model.config.num_encoder_layers, "decoder": model.config.num_decoder_layers}
    return {
        f"{place}/{field}": value
        for place, edits in places.items()
        for field, value in _stacked(edits, sides[place.partition("_")[0]]).items()
    }, {}


def _by_module(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, dict[str, np.ndarray]]:
    """Module of the T5, by its name in transformers -> its arrays by field, in float32."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, value in arrays.items():
        end = next((end for end in _FIELDS if name.endswith(f".{end}")), None)
        if end is None:
            raise UserError(where, f"{name!r} is not a part of a T5's layers", THROUGH_PEFT)
        module = name.removeprefix("base_model.model.").removesuffix(f".{end}")
        modules.setdefault(module, {})[_FIELDS[end]] = value.astype(np.float32)
    return modules


def _check_sizes(fields: dict[str, np.ndarray], kernel: np.ndarray, module: str, where: str):
    """Every array of a module has the widths of its matrix [I, O]."""
    inputs, outputs = kernel.shape
    if ("a" in fields) != ("b" in fields) or not {"a", "scale"} & set(fields):
        raise UserError(where, f"{module!r} has {sorted(fields)} alone", "copy it again")
    fit = {
        "a": lambda shape: len(shape) == 2 and shape[1] == inputs,
        "b": lambda shape: len(shape) == 2 and shape == (outputs, len(fields["a"])),
        "magnitude": lambda shape: shape == (outputs,),
        "scale": lambda shape: int(np.prod(shape)) in (inputs, outputs),
    }
    for name, value in fields.items():
        if not fit[name](value.shape):
            problem = f"{module!r} has {name} {list(value.shape)} for a matrix {[inputs, outputs]}"
            raise UserError(where, problem, OTHER_T5)


def _check_against(config, module: str, fields: dict[str, np.ndarray], where: str) -> None:
    """What the configuration says of a module is what is there; PEFT would not use other arrays."""
    targets, left_out = config.get("target_modules"), config.get("exclude_modules")
    named = targets in (None, "all-linear") or _matches(targets, module)
    if not named or _matches(left_out, module):
        field = "exclude_modules" if named else "target_modules"
        raise UserError(where, f"has arrays of {module!r}, which {field} leaves out", COPY)
    if "a" not in fields:
        return
    rank, there = _by_pattern(config.get("rank_pattern"), module, config.get("r")), len(fields["a"])
    if rank != there:
        raise UserError(
            where, f"{module!r} has rank {there}, its configuration says {rank!r}", COPY
        )
    if bool(config.get("use_dora")) != ("magnitude" in fields):
        problem = f"use_dora is {config.get('use_dora')!r}, and {module!r} has {sorted(fields)}"
        raise UserError(where, problem, COPY)


def _ia3(config, module: str, fields: dict[str, np.ndarray], kernel: np.ndarray):
    """A scale of inputs for modules of the MLP that `feedforward_modules` matches, else of outputs.

    PEFT takes one regular expression of the whole name, or a list of ends of names.
    """
    return {
        "input_scale"
        if _matches(config.get("feedforward_modules"), module)
        else "output_scale": fields["scale"].reshape(-1)
    }


def _matches(pattern: str | list[str] | None, module: str) -> bool:
    if isinstance(pattern, str):
        return re.fullmatch(pattern, module) is not None
    return any(module == end or module.endswith(f".{end}") for end in pattern or ())


def _lora(config, module: str, fields: dict[str, np.ndarray], kernel: np.ndarray):
    """LoRA's product, with what its start took out of the weights, and DoRA's scale of outputs."""
    rank = len(fields["a"])
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    factor = np.float32(alpha / (rank**0.5 if config.get("use_rslora") else rank))
    a, b = fields["a"].T, fields["b"].T * factor
    taken = _taken_out(config.get("init_lora_weights"), kernel, rank, factor)
    base = kernel
    if taken is not None:
        left, right = taken
        base = kernel - left @ right
        a, b = np.concatenate([a, -left], axis=1), np.concatenate([b, right], axis=0)
    if "magnitude" not in fields:
        return {"a": a, "b": b}
    tuned = base + fields["a"].T @ (fields["b"].T * factor)
    return {"a": a, "b": b, "output_scale": fields["magnitude"] / np.linalg.norm(tuned, axis=0)}


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """What the first pattern that a module's name ends in says, else the default."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _taken_out(start: object, kernel: np.ndarray, rank: int, factor: np.float32):
    """What PEFT subtracts from W [I, O] when it loads an adapter, as ([I, r], [r, O]), if anything.

    PiSSA: the part of the r largest singular values. (Its fast form, `pissa_niter_N`, draws at
    random anew whenever it is loaded.) OLoRA: `factor` times the first r columns of Q and rows of
    R. Both of the transpose and in float32, as PEFT does it: where singular values lie close
    together, rounding decides about their vectors.
    """
    if start == "pissa":
        left, values, right = np.linalg.svd(np.ascontiguousarray(kernel.T), full_matrices=False)
        return right[:rank].T * values[:rank], left[:, :rank].T
    if isinstance(start, str) and start.lower() == "olora":
        q, r = np.linalg.qr(np.ascontiguousarray(kernel.T))
        return r[:rank].T * factor, q[:, :rank].T
    return None


def _stacked(edits: dict[int, dict[str, np.ndarray]], layers: int) -> dict[str, np.ndarray]:
    """The edits of some layers [layers, ...]; the others are not changed, smaller ranks padded."""
    rank = max((edit["a"].shape[1] for edit in edits.values() if "a" in edit), default=0)
    fields = {field: value for edit in edits.values() for field, value in edit.items()}
    stacked = {}
    for field, example in fields.items():
        neutral = np.ones if field.endswith("_scale") else np.zeros
        shape = {"a": (len(example), rank), "b": (rank, example.shape[-1])}
        rows = neutral((layers, *shape.get(field, example.shape)), np.float32)
        for layer, edit in edits.items():
            value = edit[field] if field in edit else rows[layer]
            rows[(layer, *(slice(size) for size in value.shape))] = value
        stacked[field] = rows
    return stacked


def _prefix(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], side: int, where: str):
    if set(arrays) != {KEY}:
        raise UserError(where, f"holds {sorted(arrays)}", "a prefix is 'prompt_embeddings' alone")
    table, layers, width = arrays[KEY], config["num_layers"], config["token_dim"]
    wanted = (config["num_virtual_tokens"], 2 * layers * width)
    if table.shape != wanted:
        problem = f"prompt_embeddings is {list(table.shape)}, its configuration says {list(wanted)}"
        raise UserError(where, problem, "copy it again")
    if config["num_transformer_submodules"] == 1:
        problem = (
            "num_transformer_submodules is 1: PEFT then shows the decoder's keys to its "
            "cross-attention, and fails on padded inputs"
        )
        raise UserError(where, problem, "train it with 2")
    if layers < side:
        raise UserError(where, f"is of {layers} layers, the backbone's decoder of {side}", OTHER_T5)
    parts = table.astype(np.float32).reshape(len(table), 2 * layers, width).transpose(1, 0, 2)
    first = [4 * n % (2 * layers) for n in range(side)]
    return {
        "decoder_layers/attention/keys": parts[first],
        "decoder_layers/attention/values": parts[[n + 1 for n in first]],
    }
