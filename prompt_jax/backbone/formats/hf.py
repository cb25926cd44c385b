"""Folders of transformers: config.json and safetensors (else .bin), whole or in shards.

Up to version 4, `tie_word_embeddings` says whether the head is the embedding, and T5 1.0's scaling
of the logits goes with it. Version 5 always writes true: there a head of its own in the file is
the sign, and `scale_decoder_outputs` names the scaling for T5; umT5 scales when tied, mT5 never.

Every field of config.json is used, compared with what the T5 here computes, or known to change
nothing; any other is refused by name, unless `hf:DIR?ignore=FIELD` says to go on without it.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.backbone.formats import Checkpoint, LazyArrays, Stored, hf_vocabulary
from prompt_jax.backbone.formats.files import (
    AT_ONCE,
    WEIGHTS,
    SafeTensors,
    read_json,
)
from prompt_jax.backbone.formats.names import Origin, Shape, check_dtypes, hf_table, match
from prompt_jax.backbone.formats.torch_bin import TorchBin
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

INDEX = "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
FORMATS = ((WEIGHTS, INDEX, SafeTensors), (BIN, BIN_INDEX, TorchBin))
HEAD = "lm_head.weight"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
GENERATION = "generation_config.json"
DOWNLOADS = ["config.json", GENERATION, *hf_vocabulary.FILES]
SAFE = [WEIGHTS, INDEX, "model-*-of-*.safetensors"]
BINS = [BIN, BIN_INDEX, "pytorch_model-*-of-*.bin"]  # where a repository has nothing else

# What a config.json leaves out, by model_type, as transformers documents it.
_COMMON = {
    "num_decoder_layers": None,  # as many as the encoder has
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "tie_word_embeddings": True,
    "transformers_version": "4",
    "scale_decoder_outputs": None,
    "tokenizer_class": None,
    "dense_act_fn": None,  # as feed_forward_proj says
    "is_gated_act": None,
}
_DEFAULTS = {
    "t5": {**_COMMON, "feed_forward_proj": "relu"},
    "mt5": {**_COMMON, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": {**_COMMON, "feed_forward_proj": "gated-gelu"},
}
_REQUIRED = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")
# Settings that other values of would change the model, and the values that the T5 here computes
# with. They may be absent, or null where a null is among the values.
_FIXED: dict[str, tuple[Any, ...]] = {
    "layer_norm_epsilon": (1e-6,),
    "pad_token_id": (0, None),
    "eos_token_id": (1, [1], None),
    "decoder_start_token_id": (0, None),
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "tie_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None, 1),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None,),
}
# The same settings in generation_config.json; others there are defaults of `generate` alone.
_FIXED_GENERATION = (
    "pad_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)
# Fields that change neither the logits nor the tokens: provenance, defaults of `generate`, what a
# classifier on top would do, and how transformers holds or returns things.
_IRRELEVANT = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "decoder_layers",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_layers",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "gradient_checkpointing",
        "head_dim",
        "hidden_size",
        "id2label",
        "initializer_factor",
        "label2id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "n_positions",
        "no_repeat_ngram_size",
        "num_attention_heads",
        "num_beam_groups",
        "num_beams",
        "num_hidden_layers",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "typical_p",
        "unk_token_id",
        "use_bfloat16",
        "use_cache",
    }
)
# Names of activations in transformers, and here.
ACTIVATIONS = {
    "relu": "relu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "silu": "silu",
    "swish": "silu",
}


def open_hf(name: str, ignore: Collection[str] = ()) -> Checkpoint:
    """A transformers folder, or a repository on the hub, checked; weights on demand.

    `ignore`: fields of its .json files that may be there although nothing is known of them.
    """
    base = _folder(name)
    settings = settings_from(read_json(base / "config.json"), str(base / "config.json"), ignore)
    if (base / GENERATION).is_file():
        _check_fixed(read_json(base / GENERATION), str(base / GENERATION), _FIXED_GENERATION)
    weights = _Weights(base)
    tied = _is_tied(settings, weights)
    config = config_from(settings, tied)
    table = hf_table(tied, config.relpos_per_layer)
    origins = match(weights.shapes, t5x_shapes(config), table, str(base))
    _check_copies(origins, weights)

    stored = {}
    for target, origin in origins.items():
        one = weights.stored[origin.name]
        stored[target] = one.transposed() if origin.transpose else one
    vocabulary = hf_vocabulary.vocabulary_of(base, settings, ignore)
    check_dtypes({origins[t].name: (t, one.dtype) for t, one in stored.items()}, str(base))
    return Checkpoint(config, LazyArrays(stored), vocabulary, str(base))


def open_hf_config(name: str, ignore: Collection[str] = ()) -> T5Config:
    """The config of a transformers folder or repository by its config.json alone.

    Where version 5 wrote it, which always says tied, gated models are taken as untied: T5 1.1, mT5
    and umT5 as published have a head of their own.
    """
    path = Path(name).expanduser() / "config.json"
    if not path.is_file():
        path = _folder(name, only_config=True) / "config.json"
    settings = settings_from(read_json(path), str(path), ignore)
    gated = len(_activations(settings)) == 2
    untied = settings["tie_word_embeddings"] is False or (gated and _by_version_5(settings))
    return config_from(settings, not untied)


def settings_from(
    raw: Mapping[str, Any], where: str, ignore: Collection[str] = ()
) -> dict[str, Any]:
    """A config.json of transformers with its defaults filled in.

    Raises:
      UserError: it is no T5's, or a field has a value that the T5 here does not compute with.
    """
    if not isinstance(raw.get("model_type"), str) or raw["model_type"] not in _DEFAULTS:
        kind = repr(raw["model_type"]) if "model_type" in raw else "absent"
        raise UserError(where, f"model_type is {kind}", f"give one of {', '.join(_DEFAULTS)}")
    for key in _REQUIRED:
        if key not in raw or type(raw[key]) is not int or raw[key] < 1:
            raise UserError(where, f"'{key}' is missing or not a whole number", "copy it again")
    defaults = _DEFAULTS[raw["model_type"]]
    # A null is what transformers takes for "not given".
    given = {name: value for name, value in raw.items() if value is not None}
    settings = {**defaults, **given}
    unknown = set(raw) - {*defaults, *_REQUIRED, "model_type", *_FIXED} - _IRRELEVANT - set(ignore)
    if unknown:
        name = min(unknown)
        raise UserError(
            where,
            (f"{name} = {raw[name]!r} is not a field known here, so it may change the model"),
            f"if it does not, give the backbone as hf:DIR?ignore={name}",
        )
    _check_types(settings, where)
    if None in _activations(settings):
        names = ("feed_forward_proj", "dense_act_fn", "is_gated_act")
        shown = ", ".join(f"{n} {settings[n]!r}" for n in names if settings[n] is not None)
        known = ", ".join(ACTIVATIONS)
        raise UserError(where, shown, f"the known activations are {known}, each also gated-")
    _check_fixed(raw, where, tuple(_FIXED))
    return settings


_TYPES: dict[str, type | tuple[type, ...]] = {
    "num_decoder_layers": int,
    "relative_attention_num_buckets": int,
    "relative_attention_max_distance": int,
    "dropout_rate": (int, float),
    "tie_word_embeddings": bool,
    "transformers_version": str,
    "scale_decoder_outputs": bool,
    "tokenizer_class": str,
    "feed_forward_proj": str,
    "dense_act_fn": str,
    "is_gated_act": bool,
}


def _check_types(settings: Mapping[str, Any], where: str) -> None:
    for name, kind in _TYPES.items():
        value = settings[name]
        if value is None:
            continue
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            wanted = "a number" if isinstance(kind, tuple) else kind.__name__
            raise UserError(where, f"{name} = {value!r} should be {wanted}", "copy it again")
        if kind is int and value < 1:
            raise UserError(where, f"{name} = {value!r} should be 1 or more", "copy it again")
    if not 0 <= settings["dropout_rate"] < 1:
        rate = settings["dropout_rate"]
        raise UserError(where, f"dropout_rate = {rate!r} should be from 0 to below 1", "correct it")
    if not settings["transformers_version"].split(".")[0].isdecimal():
        version = settings["transformers_version"]
        raise UserError(
            where,
            (
                f"transformers_version = {version!r} should be a version such as 4.57.0, "
                "since it decides how tied weights are read"
            ),
            "correct it",
        )


def _check_fixed(raw: Mapping[str, Any], where: str, names: tuple[str, ...]) -> None:
    """UserError for one of `names` with another value than the T5 here computes with."""
    for name in names:
        if name in raw and raw[name] not in _FIXED[name]:
            wanted = _FIXED[name][0]
            raise UserError(
                where,
                f"{name} = {raw[name]!r}, and only {wanted!r} can be computed here",
                "take another checkpoint",
            )


def _activations(settings: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Those of the MLP's factors, as T5Config names them; None for an unknown one.

    As transformers does, `dense_act_fn` and `is_gated_act` come before what `feed_forward_proj`
    says; "gated-gelu" means gelu_new.
    """
    projection = settings["feed_forward_proj"]
    gated, function = projection.startswith("gated-"), projection.removeprefix("gated-")
    if projection == "gated-gelu":
        function = "gelu_new"
    if settings["dense_act_fn"] is not None:
        function = settings["dense_act_fn"]
    if settings["is_gated_act"] is not None:
        gated = settings["is_gated_act"]
    first = ACTIVATIONS.get(function)
    return (first, "linear") if gated else (first,)


def config_from(settings: Mapping[str, Any], tied: bool) -> T5Config:
    """The T5Config of filled-in settings; `tied` is read off the arrays."""
    layers = settings["num_layers"]
    decoder_layers = settings["num_decoder_layers"]
    return T5Config(
        vocab_size=settings["vocab_size"],
        emb_dim=settings["d_model"],
        num_heads=settings["num_heads"],
        head_dim=settings["d_kv"],
        mlp_dim=settings["d_ff"],
        num_encoder_layers=layers,
        num_decoder_layers=layers if decoder_layers is None else decoder_layers,
        mlp_activations=tuple(name for name in _activations(settings) if name is not None),
        logits_via_embedding=tied,
        scale_logits=_scales(settings, tied),
        relpos_per_layer=settings["model_type"] == "umt5",
        num_buckets=settings["relative_attention_num_buckets"],
        max_distance=settings["relative_attention_max_distance"],
        dropout_rate=float(settings["dropout_rate"]),
    )


def _by_version_5(settings: Mapping[str, Any]) -> bool:
    return int(settings["transformers_version"].split(".")[0]) >= 5


def _scales(settings: Mapping[str, Any], tied: bool) -> bool:
    if settings["scale_decoder_outputs"] is not None:
        return settings["scale_decoder_outputs"]
    return tied and not (settings["model_type"] == "mt5" and _by_version_5(settings))


class _Weights:
    """One file of weights or several, safetensors before .bin: what is stored, by name."""

    def __init__(self, base: Path):
        for single, index, opened in FORMATS:
            if (base / single).is_file():
                parts = [opened(base / single)]
                break
            if (base / index).is_file():
                parts = _shards(base, index, opened)
                break
        else:
            raise UserError(base, f"has no {WEIGHTS} and no {BIN}", "give a transformers folder")
        self.stored: dict[str, Stored] = {
            n: one for part in parts for n, one in part.stored.items()
        }
        self.shapes: dict[str, Shape] = {name: one.shape for name, one in self.stored.items()}
        self.base = base


def _shards(base: Path, index_name: str, opened: Callable[[Path], Any]) -> list[Any]:
    """Every shard that the index names; each array must lie in its own shard and no other."""
    index = read_json(base / index_name)
    if "weight_map" not in index or not isinstance(index["weight_map"], dict):
        raise UserError(base / index_name, "has no weight_map", "copy it again")
    homes: dict[str, str] = index["weight_map"]
    for file in set(homes.values()):
        if Path(file).name != file:
            where = base / index_name
            raise UserError(where, f"points outside, to '{file}'", "copy the folder again")
    parts = {file: opened(base / file) for file in sorted(set(homes.values()))}
    seen: dict[str, str] = {}
    for file, part in parts.items():
        for name in part.stored:
            if name in seen:
                both = f"{seen[name]} and {file}"
                raise UserError(base, f"'{name}' is stored twice, in {both}", "remove one")
            seen[name] = file
    wrong = sorted(dict(homes.items() ^ seen.items()))
    if wrong:
        remedy = "copy the folder again"
        raise UserError(base, f"'{wrong[0]}' is not where {index_name} says", remedy)
    return list(parts.values())


def _is_tied(settings: Mapping[str, Any], weights: _Weights) -> bool:
    declared = settings["tie_word_embeddings"]
    if declared is False:
        return False
    embedding = next((name for name in EMBEDDINGS if name in weights.shapes), None)
    if HEAD not in weights.shapes or embedding is None:
        return True
    if _same(weights, HEAD, embedding):
        return True
    if _by_version_5(settings):
        return False
    raise UserError(
        weights.base,
        f"'{HEAD}' differs from '{embedding}' although config.json ties them",
        ("set tie_word_embeddings to false there if the model has a head of its own"),
    )


def _same(weights: _Weights, one: str, other: str) -> bool:
    """Whether two matrices hold the same values; a few rows of each are in memory at a time."""
    a, b = weights.stored[one], weights.stored[other]
    if a.shape != b.shape:
        return False
    step = max(1, AT_ONCE // (4 * a.shape[-1]))
    boxes = [
        (slice(i, min(i + step, a.shape[0])), slice(0, a.shape[1]))
        for i in range(0, a.shape[0], step)
    ]
    return all(np.array_equal(a.read(box), b.read(box)) for box in boxes)


def _check_copies(origins: Mapping[str, Origin], weights: _Weights) -> None:
    for origin in origins.values():
        for copy in origin.copies:
            if not _same(weights, copy, origin.name):
                raise UserError(
                    weights.base,
                    (
                        f"'{copy}' should repeat '{origin.name}' and differs, so the embedding "
                        "is there twice"
                    ),
                    "save the model again with transformers, which writes it once",
                )


def _folder(name: str, only_config: bool = False) -> Path:
    """A folder as it is; any other name is looked up on the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith("gs://"):
        raise UserError(
            f"'{name}'", "hf: reads local folders", "copy it, or convert it to orbax first"
        )
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"hf:{name}", "no such folder", "hf: takes a folder or a name on the hub")
    return _download(name, only_config)


def _download(name: str, only_config: bool) -> Path:
    """The repository's snapshot in the hub's cache; with HF_HUB_OFFLINE=1 what is there counts."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if only_config:
            return Path(snapshot_download(name, allow_patterns=DOWNLOADS))
        folder = Path(snapshot_download(name, allow_patterns=DOWNLOADS + SAFE))
        if not any((folder / file).is_file() for file in (WEIGHTS, INDEX)):
            folder = Path(snapshot_download(name, allow_patterns=DOWNLOADS + BINS))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "check the name and the network, or give a folder: hf:DIR"
        raise UserError(
            f"hf:{name}", f"cannot be downloaded from the hub ({reason})", remedy
        ) from error
