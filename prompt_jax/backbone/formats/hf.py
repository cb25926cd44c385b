"""Folders of transformers: config.json and safetensors (else .bin), whole or in shards.

Up to version 4, `tie_word_embeddings` says whether the head is the embedding, and T5 1.0's scaling
of the logits goes with it. Version 5 always writes true: there a head of its own in the file is
the sign, and `scale_decoder_outputs` names the scaling for T5; umT5 scales when tied, mT5 never.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prompt_jax.backbone.formats import Checkpoint, LazyArrays, Stored
from prompt_jax.backbone.formats.files import AT_ONCE, SPIECE, WEIGHTS, SafeTensors, read_json
from prompt_jax.backbone.formats.names import Origin, Shape, check_dtypes, hf_table, match
from prompt_jax.backbone.formats.torch_bin import TorchBin
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

INDEX = "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
FORMATS = ((WEIGHTS, INDEX, SafeTensors), (BIN, BIN_INDEX, TorchBin))
HEAD, EMBEDDING = "lm_head.weight", "shared.weight"
DOWNLOADS = ["config.json", SPIECE, "tokenizer_config.json"]
SAFE = [WEIGHTS, INDEX, "model-*-of-*.safetensors"]
BINS = [BIN, BIN_INDEX, "pytorch_model-*-of-*.bin"]  # where a repository has nothing else

# What a config.json leaves out, by model_type, as transformers documents it.
_COMMON = {
    "num_decoder_layers": None,  # as many as the encoder has
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": True,
    "transformers_version": "4",
    "scale_decoder_outputs": None,
    "tokenizer_class": None,
}
_DEFAULTS = {
    "t5": {**_COMMON, "feed_forward_proj": "relu"},
    "mt5": {**_COMMON, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": {**_COMMON, "feed_forward_proj": "gated-gelu"},
}
_REQUIRED = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")
ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),  # UL2
}
_FIXED = {"layer_norm_epsilon": 1e-6, "pad_token_id": 0, "decoder_start_token_id": 0}


def open_hf(name: str) -> Checkpoint:
    """A transformers folder, or a repository on the hub, checked; weights on demand."""
    base = _folder(name)
    settings = settings_from(read_json(base / "config.json"), str(base / "config.json"))
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
    check_dtypes({origins[t].name: (t, one.dtype) for t, one in stored.items()}, str(base))
    return Checkpoint(config, LazyArrays(stored), _vocabulary(base, settings), str(base))


def open_hf_config(name: str) -> T5Config:
    """The config of a transformers folder or repository by its config.json alone.

    Where version 5 wrote it, which always says tied, gated models are taken as untied: T5 1.1, mT5
    and umT5 as published have a head of their own.
    """
    path = Path(name).expanduser() / "config.json"
    if not path.is_file():
        path = _folder(name, only_config=True) / "config.json"
    settings = settings_from(read_json(path), str(path))
    gated = settings["feed_forward_proj"] != "relu"
    untied = settings["tie_word_embeddings"] is False or (gated and _by_version_5(settings))
    return config_from(settings, not untied)


def settings_from(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config.json of transformers with its defaults filled in; UserError if it is no T5's."""
    if "model_type" not in raw or raw["model_type"] not in _DEFAULTS:
        kind = repr(raw["model_type"]) if "model_type" in raw else "absent"
        raise UserError(f"{where}: model_type is {kind}; give one of {', '.join(_DEFAULTS)}")
    for key in _REQUIRED:
        if key not in raw or type(raw[key]) is not int:
            raise UserError(f"{where}: '{key}' is missing or no whole number; copy it again")
    settings = {**_DEFAULTS[raw["model_type"]], **raw}
    if settings["feed_forward_proj"] not in ACTIVATIONS:
        found, known = settings["feed_forward_proj"], ", ".join(ACTIVATIONS)
        raise UserError(f"{where}: feed_forward_proj is {found!r}; the known ones are {known}")
    for key, value in _FIXED.items():
        if settings[key] != value:
            raise UserError(f"{where}: {key} is {settings[key]!r}; only T5's {value} is supported")
    return settings


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
        mlp_activations=ACTIVATIONS[settings["feed_forward_proj"]],
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
            raise UserError(f"'{base}' has no {WEIGHTS} and no {BIN}; give a transformers folder")
        self.stored: dict[str, Stored] = {
            n: one for part in parts for n, one in part.stored.items()
        }
        self.shapes: dict[str, Shape] = {name: one.shape for name, one in self.stored.items()}
        self.base = base


def _shards(base: Path, index_name: str, opened: Callable[[Path], Any]) -> list[Any]:
    """Every shard that the index names; each array must lie in its own shard and no other."""
    index = read_json(base / index_name)
    if "weight_map" not in index or not isinstance(index["weight_map"], dict):
        raise UserError(f"'{base / index_name}' has no weight_map; copy it again")
    homes: dict[str, str] = index["weight_map"]
    for file in set(homes.values()):
        if Path(file).name != file:
            where = base / index_name
            raise UserError(f"'{where}' points outside, to '{file}'; copy the folder again")
    parts = {file: opened(base / file) for file in sorted(set(homes.values()))}
    seen: dict[str, str] = {}
    for file, part in parts.items():
        for name in part.stored:
            if name in seen:
                both = f"{seen[name]} and {file}"
                raise UserError(f"{base}: '{name}' is there twice, in {both}; remove one")
            seen[name] = file
    wrong = sorted(dict(homes.items() ^ seen.items()))
    if wrong:
        remedy = "copy the folder again"
        raise UserError(f"{base}: '{wrong[0]}' is not where {index_name} says; {remedy}")
    return list(parts.values())


def _is_tied(settings: Mapping[str, Any], weights: _Weights) -> bool:
    declared = settings["tie_word_embeddings"]
    if declared is False:
        return False
    if HEAD not in weights.shapes or EMBEDDING not in weights.shapes:
        return True
    if _same(weights, HEAD, EMBEDDING):
        return True
    if _by_version_5(settings):
        return False
    raise UserError(
        f"{weights.base}: '{HEAD}' differs from '{EMBEDDING}' although config.json ties them; "
        "set tie_word_embeddings to false there if the model has a head of its own"
    )


def _same(weights: _Weights, one: str, other: str) -> bool:
    """Whether two matrices hold the same values; a few rows of each are in memory at a time."""
    a, b = weights.stored[one], weights.stored[other]
    if a.shape != b.shape:
        return False
    step = max(1, AT_ONCE // (4 * a.shape[-1]))
    boxes = [(slice(i, min(i + step, a.shape[0])), slice(0, a.shape[1]))
             for i in range(0, a.shape[0], step)]  # fmt: skip
    return all(np.array_equal(a.read(box), b.read(box)) for box in boxes)


def _check_copies(origins: Mapping[str, Origin], weights: _Weights) -> None:
    for origin in origins.values():
        for copy in origin.copies:
            if not _same(weights, copy, origin.name):
                raise UserError(
                    f"{weights.base}: '{copy}' should repeat '{origin.name}' and differs, so the "
                    "embedding is there twice; remove the wrong one"
                )


def _vocabulary(base: Path, settings: Mapping[str, Any]) -> str | None:
    if (base / SPIECE).is_file():
        return str(base / SPIECE)
    tokenizer = settings["tokenizer_class"]
    if (base / "tokenizer_config.json").is_file():
        details = {"tokenizer_class": tokenizer, **read_json(base / "tokenizer_config.json")}
        tokenizer = details["tokenizer_class"]
    return "bytes" if tokenizer == "ByT5Tokenizer" else None


def _folder(name: str, only_config: bool = False) -> Path:
    """A folder as it is; any other name is looked up on the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith("gs://"):
        raise UserError(f"'{name}': hf: reads local folders; copy it, or convert it to orbax first")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"there is no folder '{name}'; hf: takes a folder or a name on the hub")
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
        raise UserError(f"cannot download '{name}' from the hub ({reason}); {remedy}") from error
