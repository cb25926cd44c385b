"""T5X's checkpoints, read only as far as `target`: the optimizer's state is never opened.

Two layouts are read from a folder `checkpoint_STEP`, local or `gs://`:
- legacy: a msgpack file `checkpoint` that holds small arrays and, for large ones, the description
  of a zarr array in the folder `target.<dotted name>`;
- Orbax: `state/`, where arrays of the same dotted names lie in an OCDBT database or in folders.
In both, the layers of a stack may lie apart or in one array with an axis of layers (`stacked.py`).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import serialization

from prompt_jax.backbone.formats import Checkpoint, LazyArrays, Stored, files, hf
from prompt_jax.backbone.formats.names import T5X_TABLE, Shape, check_dtypes, match, source_name
from prompt_jax.backbone.formats.stacked import unstack
from prompt_jax.backbone.formats.store import Store, is_bucket, open_array, stored
from prompt_jax.backbone.weights import t5x_shapes
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

FLOATS = ("float32", "bfloat16", "float16")


def _family(
    activations: tuple[str, ...], tied: bool = False, relpos_per_layer: bool = False
) -> dict[str, Any]:
    return {
        "mlp_activations": activations,
        "logits_via_embedding": tied,
        "scale_logits": tied,
        "relpos_per_layer": relpos_per_layer,
    }


_GATED = ("gelu", "linear")
FAMILIES: dict[str, dict[str, Any]] = {
    "t5_1_0": _family(("relu",), tied=True),
    "t5_1_1": _family(_GATED),
    "t5_1_1_lm_adapted": _family(_GATED),
    "flan_t5": _family(_GATED),
    "mt5": _family(_GATED),
    "byt5": _family(_GATED),
    "umt5": _family(_GATED, relpos_per_layer=True),
    "ul2": _family(("silu", "linear")),
    "flan_ul2": _family(("silu", "linear")),
}
UL2_SHAPE = (4096, 16, 256)  # emb_dim, num_heads, head_dim: there the names alone do not decide
_ATTENTION = re.compile(r"attention\.(query|key|value|out)\.kernel$")
# A family's traits that show in the names of the arrays.
_TRAITS = ("mlp_activations", "logits_via_embedding", "relpos_per_layer")


def open_t5x(folder: str, family: str | None) -> Checkpoint:
    """A T5X checkpoint, checked; its weights are read on demand.

    Sizes are read off the arrays. The rest comes from a config.json beside them (transformers' or
    ours), else from `family`, one of FAMILIES, else from the one family that fits the names.
    """
    if family is not None and family not in FAMILIES:
        raise UserError(
            f"?family={family}", "unknown family", f"the known ones are {', '.join(FAMILIES)}"
        )
    if not is_bucket(folder) and epath.Path(folder).is_file():
        raise UserError(folder, "a file", f"give its folder: t5x:{epath.Path(folder).parent}")
    store = Store(folder)
    arrays = unstack(_open_arrays(store), folder)
    arrays = {name: _heads_joined(name, one) for name, one in arrays.items()}
    shapes = {name: one.shape for name, one in arrays.items()}
    named = {name.removeprefix("target.").replace(".", "/"): s for name, s in shapes.items()}
    config = _config(store, named, family)
    origins = match(shapes, t5x_shapes(config), T5X_TABLE, folder)
    stored = {target: arrays[origin.name] for target, origin in origins.items()}
    check_dtypes({origins[t].name: (t, one.dtype) for t, one in stored.items()}, folder)
    local = None if is_bucket(folder) else folder
    return Checkpoint(config, LazyArrays(stored), _vocabulary(store, family), local)


def _heads_joined(name: str, one: Stored) -> Stored:
    """Attention's matrices with two axes: Scalable T5 has heads and their width apart, as
    [D, H, K] for query, key and value and [H, K, D] for out."""
    hit = _ATTENTION.search(name)
    if hit is None or len(one.shape) != 3:
        return one
    return one.merged(0 if hit[1] == "out" else 1)


def _open_arrays(store: Store) -> dict[str, Stored]:
    """What is stored by dotted name (`target.…`), for either layout."""
    index = store.read("checkpoint")
    if index is not None:
        return _legacy(store, index)
    spec, names = store.arrays("state")
    targets = [name for name in names if name.startswith("target.")]
    if not targets:
        raise UserError(store.path, "no T5X checkpoint there", _hint(store))
    return {name: _outside(spec, name, store) for name in targets}


def _outside(spec: dict[str, Any], name: str, store: Store) -> Stored:
    array = open_array(spec, name, store.path)
    _check_float(array.dtype.name, name, store)
    return stored(array, name, store.path)


def _check_float(dtype: str, name: str, store: Store) -> None:
    if dtype not in FLOATS:
        raise UserError(store.path, f"'{name}' holds {dtype}", "save it as float32")


def _hint(store: Store) -> str:
    base = epath.Path(store.path)
    steps = []
    if not is_bucket(store.path) and base.is_dir():
        steps = [p.name for p in base.glob("checkpoint_*") if p.name[11:].isdecimal()]
    if steps:
        latest = max(steps, key=lambda name: int(name[11:]))
        return f"give one of its steps, such as t5x:{base / latest}"
    return "give the folder that holds the file 'checkpoint' or the folder 'state'"


def _legacy(store: Store, index: bytes) -> dict[str, Stored]:
    """Arrays inside the msgpack file and, where it describes them, those beside it."""
    path = store.where("checkpoint")
    try:
        tree = serialization.msgpack_restore(index)["optimizer"]["target"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(path, "not a whole T5X checkpoint", "copy it again") from error
    arrays = {}
    for name, leaf in _leaves(tree, "target", path).items():
        if isinstance(leaf, np.ndarray):
            _check_float(leaf.dtype.name, name, store)
            arrays[name] = Stored.of(leaf)
        else:
            arrays[name] = _outside(store.spec, name, store)
            _check_told(leaf, arrays[name], name, store)
    return arrays


def _check_told(leaf: dict[str, Any], array: Stored, name: str, store: Store) -> None:
    """The msgpack file and the array's own folder agree, as far as the former tells."""
    described = {"dtype": leaf.get("dtype"), "shape": leaf.get("metadata", {}).get("shape")}
    actual: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    for key, value in described.items():
        value = list(value) if isinstance(value, tuple) else value
        if value is not None and value != actual[key]:
            raise UserError(
                store.path,
                f"'{name}' holds {key} {actual[key]}, the file 'checkpoint' says {value}",
                "copy the checkpoint again",
            )


def _leaves(tree: Any, name: str, path: str) -> dict[str, Any]:
    if isinstance(tree, np.ndarray) or (isinstance(tree, dict) and "kvstore" in tree):
        return {name: tree}
    if not isinstance(tree, dict):
        raise UserError(path, f"'{name}' is a {type(tree).__name__}, not an array", "copy it again")
    inside: dict[str, Any] = {}
    for key, value in tree.items():
        inside |= _leaves(value, f"{name}.{key}", path)
    return inside


def _config(store: Store, shapes: Mapping[str, Shape], family: str | None) -> T5Config:
    raw, where = store.json("config.json"), store.where("config.json")
    if raw is None:
        return _config_of_family(store.path, shapes, family)
    if family is not None:
        raise UserError(where, "says what the model is", f"remove ?family={family}")
    if "format" in raw:
        return files.config_from(raw, where)
    tied = _names_say(shapes)["logits_via_embedding"]
    return hf.config_from(hf.settings_from(raw, where), tied)


def _config_of_family(base: str, shapes: Mapping[str, Shape], family: str | None) -> T5Config:
    seen = _names_say(shapes)
    fitting = [n for n in FAMILIES if all(_visible(FAMILIES[n])[t] == seen[t] for t in _TRAITS)]
    if not fitting:
        raise UserError(
            base, f"the arrays fit no family of {', '.join(FAMILIES)}", "put a config.json there"
        )
    if family is not None and family not in fitting:
        raise UserError(
            base, f"the arrays are not those of family={family}", f"try ?family={fitting[0]}"
        )
    config = _sized(base, shapes, FAMILIES[family or fitting[0]])
    if family is None and (config.emb_dim, config.num_heads, config.head_dim) == UL2_SHAPE:
        raise UserError(base, "this may be a UL2", "say ?family=ul2, or ?family=t5_1_1 if not")
    return config


def _visible(traits: dict[str, Any]) -> dict[str, Any]:
    """Traits as the names show them: all gated activations look alike."""
    gated = len(traits["mlp_activations"]) == 2
    return {**traits, "mlp_activations": _GATED if gated else traits["mlp_activations"]}


def _names_say(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {
        "mlp_activations": ("relu",) if "encoder/layers_0/mlp/wi/kernel" in shapes else _GATED,
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
        "relpos_per_layer": "encoder/layers_0/relpos_bias/rel_embedding" in shapes,
    }


def _sized(base: str, shapes: Mapping[str, Shape], traits: dict[str, Any]) -> T5Config:
    wi = "wi" if len(traits["mlp_activations"]) == 1 else "wi_0"
    layer = "layers_0/" if traits["relpos_per_layer"] else ""
    vocab_size, emb_dim = _pair(base, shapes, "token_embedder/embedding")
    heads, buckets = _pair(base, shapes, f"encoder/{layer}relpos_bias/rel_embedding")
    _, joined = _pair(base, shapes, "encoder/layers_0/attention/query/kernel")
    _, mlp_dim = _pair(base, shapes, f"encoder/layers_0/mlp/{wi}/kernel")
    return T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=heads,
        head_dim=joined // heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=_layers(shapes, "encoder"),
        num_decoder_layers=_layers(shapes, "decoder"),
        num_buckets=buckets,
        **traits,
    )


def _pair(base: str, shapes: Mapping[str, Shape], name: str) -> tuple[int, int]:
    source = source_name(name, T5X_TABLE)
    if name not in shapes:
        raise UserError(base, f"'{source}' is missing", "copy the checkpoint again")
    shape = shapes[name]
    if len(shape) != 2 or 0 in shape:
        raise UserError(base, f"'{source}' has shape {list(shape)}", "it should have two axes")
    return shape[0], shape[1]


def _layers(shapes: Mapping[str, Shape], stack: str) -> int:
    start = f"{stack}/layers_"
    inside = (name.removeprefix(start) for name in shapes if name.startswith(start))
    return len({rest.partition("/")[0] for rest in inside})


def _vocabulary(store: Store, family: str | None) -> str | None:
    for name in (files.SPIECE, files.TOKENIZER):
        if store.read(name) is not None:
            return store.where(name)
    described = store.json("config.json") or {}
    bytewise = family == "byt5" or ("format" in described and described["vocabulary"] == "bytes")
    return "bytes" if bytewise else None
