"""Writing backbones in the formats that `prompt-jax convert` knows, array by array.

Values leave as they are held: float32, bfloat16 or float16 (the last in formats of others only);
quantised kernels in our Orbax layout alone.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath
from flax import serialization, traverse_util

from prompt_jax.backbone.formats import Checkpoint, Stored, files, hf, hf_tokenizer, orbax
from prompt_jax.backbone.formats.names import T5X_TABLE, destination, hf_table
from prompt_jax.backbone.formats.store import Store, chunk_shape, write_array
from prompt_jax.backbone.weights import copy_into
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

SHARD = 2 << 30  # bytes of one safetensors file
PIECE = 64 << 20  # bytes of one chunk of T5X's arrays, before compression


def write_files(folder: str, source: Checkpoint) -> None:
    """Our own folder; see files.py."""
    source.refuse_quantised("--format=files")
    files.write(folder, source.config, source.arrays, source.vocabulary)


def write_orbax(folder: str, source: Checkpoint) -> None:
    """Our Orbax layout; see orbax.py. `config.json` comes last and makes it readable."""
    orbax.write_weights(folder, source.arrays)
    more = {} if source.quantised is None else {orbax.QUANTISED: vars(source.quantised)}
    _write_ours(folder, source, more)


def _write_ours(folder: str, source: Checkpoint, more: dict[str, Any]) -> None:
    """Our config.json, with `more` in it, and the vocabulary."""
    store, vocabulary = Store(folder), source.vocabulary
    if vocabulary is not None and vocabulary != "bytes":
        vocabulary, data = files.vocabulary_file(vocabulary)
        store.write(vocabulary, data)
    store.write("config.json", files.settings_of(source.config, vocabulary, more).encode())


def write_t5x(folder: str, source: Checkpoint) -> None:
    """T5X's legacy layout, version 3, without an optimizer's state, as T5X saves for inference.

    The step is that of a folder named `checkpoint_STEP`, else 0. Our config.json stands beside.
    """
    source.refuse_quantised("--format=t5x")
    store = Store(folder)
    tree: dict[tuple[str, ...], Any] = {}
    for target, one in source.arrays.stored.items():
        name = destination(target, T5X_TABLE).name
        write_array(store.spec, name, one, PIECE)
        tree[tuple(target.split("/"))] = {
            "driver": "zarr",
            "dtype": one.dtype.name,
            "kvstore": {"driver": "file", "path": f"{name}/"},
            "metadata": {
                "chunks": chunk_shape(one.shape, one.dtype.itemsize, PIECE),
                "compressor": {"id": "gzip", "level": 1},
                "shape": list(one.shape),
            },
        }
    _write_ours(folder, source, {})
    named = re.search(r"checkpoint_(\d+)(?:\.partial)?$", store.path)
    state = {"step": np.array(int(named[1]) if named else 0, np.int32)}
    content = {"target": traverse_util.unflatten_dict(tree), "state": state}
    index = serialization.msgpack_serialize({"version": 3, "optimizer": content})
    store.write("checkpoint", index)  # last: it makes the rest a checkpoint


def write_hf(folder: str, source: Checkpoint) -> None:
    """A folder of transformers: safetensors, in shards where they are many bytes."""
    source.refuse_quantised("a folder of transformers")
    config, target = source.config, epath.Path(folder)
    table = hf_table(config.logits_via_embedding, config.relpos_per_layer)
    arrays = {}
    for name, one in source.arrays.stored.items():
        place = destination(name, table)
        arrays[place.name] = one.transposed() if place.transpose else one
    settings = hf_settings(config, next(iter(arrays.values())).dtype.name)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(target, source.vocabulary)
    _write_shards(target, arrays)
    texts = {"config.json": settings} | ({"tokenizer_config.json": tokenizer} if tokenizer else {})
    for name, value in texts.items():
        (target / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _write_shards(target: epath.Path, arrays: dict[str, Stored]) -> None:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, one in arrays.items():
        size = _bytes(one)
        if shards[-1] and filled + size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    homes, many = {}, len(shards)
    for number, names in enumerate(shards, start=1):
        file = files.WEIGHTS if many == 1 else f"model-{number:05d}-of-{many:05d}.safetensors"
        values = {name: _contiguous(arrays[name]) for name in names}
        safetensors.numpy.save_file(values, str(target / file), metadata={"format": "pt"})
        homes |= dict.fromkeys(names, file)
        del values
    if many > 1:
        total = sum(_bytes(one) for one in arrays.values())
        index = {"metadata": {"total_size": total}, "weight_map": homes}
        (target / hf.INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _bytes(one: Stored) -> int:
    return int(np.prod(one.shape)) * one.dtype.itemsize


def _contiguous(one: Stored) -> np.ndarray:
    out = np.empty(one.shape, one.dtype)
    copy_into(out, one.whole())
    return out


def hf_settings(config: T5Config, dtype: str) -> dict[str, Any]:
    """The config.json of transformers; UserError for a T5 that transformers does not have."""
    if config.scale_logits != config.logits_via_embedding:
        raise UserError(
            "--format=hf",
            f"transformers has no T5 with scale_logits = {config.scale_logits} "
            f"and logits_via_embedding = {config.logits_via_embedding}",
            "take another --format",
        )
    # The first name of each of ours is the one that transformers writes.
    functions = {ours: theirs for theirs, ours in reversed(hf.ACTIVATIONS.items())}
    function, gated = functions[config.mlp_activations[0]], len(config.mlp_activations) == 2
    projection = f"gated-{function}" if gated else function
    kind = "umt5" if config.relpos_per_layer else "t5"
    return {
        "architectures": [f"{kind.upper()}ForConditionalGeneration"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "feed_forward_proj": "gated-gelu" if projection == "gated-gelu_new" else projection,
        "dense_act_fn": function,
        "is_gated_act": gated,
        "tie_word_embeddings": config.logits_via_embedding,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "dtype": dtype,
    }


def _tokenizer(target: epath.Path, vocabulary: str | None) -> dict[str, Any] | None:
    """Copies the vocabulary; what tokenizer_config.json says, None without one."""
    if vocabulary is None:
        return None
    if vocabulary == "bytes":
        return {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}
    name, data = files.vocabulary_file(vocabulary)
    (target / name).write_bytes(data)
    whole = hf_tokenizer.with_bytes(data) if name == files.SPIECE else None
    if whole is not None:
        (target / files.TOKENIZER).write_text(whole)
        return hf_tokenizer.CONFIG
    return {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}


WRITERS: dict[str, Callable[[str, Checkpoint], None]] = {
    "orbax": write_orbax,
    "hf": write_hf,
    "t5x": write_t5x,
    "files": write_files,
}
