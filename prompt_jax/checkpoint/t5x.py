"""T5X's checkpoints, read only as far as `target`: the optimizer's state is never opened.

Two layouts are read from a folder `checkpoint_STEP`, local or `gs://`:
- legacy: a msgpack file `checkpoint` that holds small arrays and, for large ones, the description
  of a zarr array in the folder `target.<dotted name>`;
- Orbax: `state/`, where arrays of the same dotted names lie in an OCDBT database or in folders.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization

from prompt_jax.checkpoint import Checkpoint, LazyArrays, files, hf
from prompt_jax.checkpoint.names import T5X_TABLE, Shape, match, source_name
from prompt_jax.errors import UserError
from prompt_jax.t5 import T5Config
from prompt_jax.weights import t5x_shapes

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
    "mt5": _family(_GATED),
    "byt5": _family(_GATED),
    "umt5": _family(_GATED, relpos_per_layer=True),
}
# A family's traits that show in the names of the arrays.
_TRAITS = ("mlp_activations", "logits_via_embedding", "relpos_per_layer")


def open_t5x(folder: str, family: str | None) -> Checkpoint:
    """A T5X checkpoint, checked; its weights are read on demand.

    Sizes are read off the arrays. The rest comes from a config.json beside them (transformers' or
    ours), else from `family`, one of FAMILIES, else from the one family that fits the names.
    """
    if family is not None and family not in FAMILIES:
        raise UserError(f"unknown family '{family}'; the known ones are {', '.join(FAMILIES)}")
    base = epath.Path(folder)
    readers, shapes = _open_arrays(base)
    named = {name.removeprefix("target.").replace(".", "/"): s for name, s in shapes.items()}
    config = _config(base, named, family)
    origins = match(shapes, t5x_shapes(config), T5X_TABLE, folder)

    def read(target: str) -> np.ndarray:
        return readers[origins[target].name]()

    return Checkpoint(config, LazyArrays(origins, read), _vocabulary(base, family))


def _open_arrays(base: epath.Path) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Shape]]:
    """Readers and shapes by dotted name (`target.…`), for either layout."""
    if (base / "checkpoint").is_file():
        inline, stored = _legacy(base)
        store: dict[str, Any] = _kvstore(base)
    elif (base / "state").is_dir():
        inline = {}
        store = _kvstore(base / "state")
        if (base / "state" / "manifest.ocdbt").is_file():
            store = {"driver": "ocdbt", "base": store}
        stored = _listed(store)
    else:
        raise UserError(f"no T5X checkpoint in '{base}'; {_hint(base)}")
    opened = {name: _open_zarr(store, name, base) for name in stored}
    arrays = {**inline, **opened}
    for name, array in arrays.items():
        if str(array.dtype.name) not in FLOATS:
            raise UserError(f"{base}: '{name}' holds {array.dtype.name}; save it as float32")
    readers = {name: _inline_reader(array) for name, array in inline.items()}
    readers |= {name: _zarr_reader(array, name, base) for name, array in opened.items()}
    return readers, {name: tuple(array.shape) for name, array in arrays.items()}


def _hint(base: epath.Path) -> str:
    steps = [p.name for p in base.glob("checkpoint_*")] if base.is_dir() else []
    if steps:
        return f"give one of its steps, such as t5x:{base / sorted(steps)[-1]}"
    return "give the folder that holds the file 'checkpoint' or the folder 'state'"


def _legacy(base: epath.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays inside the msgpack file by dotted name, and the dotted names of those outside."""
    path = base / "checkpoint"
    try:
        tree = serialization.msgpack_restore(path.read_bytes())["optimizer"]["target"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is not a whole T5X checkpoint; copy it again") from error
    leaves = _leaves(tree, "target", path)
    inline = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray)}
    return inline, [name for name in leaves if name not in inline]


def _leaves(tree: Any, name: str, path: epath.Path) -> dict[str, Any]:
    if isinstance(tree, np.ndarray) or (isinstance(tree, dict) and "kvstore" in tree):
        return {name: tree}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: '{name}' is a {type(tree).__name__}, not an array; copy it again")
    inside: dict[str, Any] = {}
    for key, value in tree.items():
        inside |= _leaves(value, f"{name}.{key}", path)
    return inside


def _kvstore(path: epath.Path) -> dict[str, Any]:
    """TensorStore's description of a folder."""
    text = str(path)
    if text.startswith("gs://"):
        bucket, _, inside = text.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{inside}/"}
    return {"driver": "file", "path": f"{path.resolve()}/"}


def _listed(store: dict[str, Any]) -> list[str]:
    keys = [key.decode() for key in ts.KvStore.open(store).result().list().result()]
    names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    return [name for name in names if name.startswith("target.")]


def _open_zarr(store: dict[str, Any], name: str, base: epath.Path) -> ts.TensorStore:
    if store["driver"] == "ocdbt":
        kvstore = {**store, "path": f"{name}/"}
    else:
        kvstore = {**store, "path": f"{store['path']}{name}/"}
    # A chunk that is not there is an error, not zeros.
    spec = {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}
    try:
        return ts.open(spec, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise UserError(f"{base}: '{name}' is missing or damaged; copy it again") from error


def _inline_reader(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array


def _zarr_reader(array: ts.TensorStore, name: str, base: epath.Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            return array.read().result()
        except (ValueError, OSError) as error:
            raise UserError(f"{base}: '{name}' is incomplete; copy the checkpoint again") from error

    return read


def _config(base: epath.Path, shapes: Mapping[str, Shape], family: str | None) -> T5Config:
    path = base / "config.json"
    if not path.is_file():
        return _config_of_family(base, shapes, family)
    if family is not None:
        raise UserError(f"'{path}' says what the model is; remove ?family={family}")
    raw = files.read_json(path)
    if "format" in raw:
        return files.config_from(raw, str(path))
    tied = _names_say(shapes)["logits_via_embedding"]
    return hf.config_from(hf.settings_from(raw, str(path)), tied)


def _config_of_family(
    base: epath.Path, shapes: Mapping[str, Shape], family: str | None
) -> T5Config:
    seen = _names_say(shapes)
    fitting = [name for name in FAMILIES if all(FAMILIES[name][t] == seen[t] for t in _TRAITS)]
    if not fitting:
        raise UserError(
            f"{base}: the arrays fit no family of {', '.join(FAMILIES)}; put a config.json there"
        )
    if family is not None and family not in fitting:
        raise UserError(
            f"{base}: the arrays are not those of family={family}; try ?family={fitting[0]}"
        )
    return _sized(base, shapes, FAMILIES[family or fitting[0]])


def _names_say(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {
        "mlp_activations": ("relu",) if "encoder/layers_0/mlp/wi/kernel" in shapes else _GATED,
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
        "relpos_per_layer": "encoder/layers_0/relpos_bias/rel_embedding" in shapes,
    }


def _sized(base: epath.Path, shapes: Mapping[str, Shape], traits: dict[str, Any]) -> T5Config:
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


def _pair(base: epath.Path, shapes: Mapping[str, Shape], name: str) -> tuple[int, int]:
    source = source_name(name, T5X_TABLE)
    if name not in shapes:
        raise UserError(f"{base}: '{source}' is missing; copy the checkpoint again")
    shape = shapes[name]
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{base}: '{source}' has shape {list(shape)}; it should have two axes")
    return shape[0], shape[1]


def _layers(shapes: Mapping[str, Shape], stack: str) -> int:
    start = f"{stack}/layers_"
    inside = (name.removeprefix(start) for name in shapes if name.startswith(start))
    return len({rest.partition("/")[0] for rest in inside})


def _vocabulary(base: epath.Path, family: str | None) -> str | None:
    if (base / files.SPIECE).is_file():
        return str(base / files.SPIECE)
    return "bytes" if family == "byt5" else None
