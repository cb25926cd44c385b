"""The project's own Orbax layout of a backbone, local or `gs://`.

A folder holds `config.json` and `spiece.model` as in `files.py`, and `weights/`: an Orbax PyTree of
T5X's per-layer names (`encoder/layers_0/attention/query/kernel`), in an OCDBT database. Each array
is read straight from there, in parts where only parts are wanted.
"""

from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util

from prompt_jax.checkpoint import Checkpoint, LazyArrays, files
from prompt_jax.checkpoint.names import DOTTED_TABLE, check_dtypes, match
from prompt_jax.checkpoint.store import Store, is_bucket, open_array, stored
from prompt_jax.errors import UserError
from prompt_jax.weights import t5x_shapes

WEIGHTS = "weights"


def open_orbax(folder: str) -> Checkpoint:
    """A backbone in our Orbax layout, checked; its weights are read on demand."""
    store = Store(folder)
    settings = store.json("config.json")
    if settings is None:
        raise UserError(f"there is no '{store.where('config.json')}'; give a folder of `convert`")
    where = store.where("config.json")
    if "format" not in settings or settings["format"] != files.FORMAT:
        raise UserError(f"'{where}' is not in our own format; give a folder of `convert`")
    config = files.config_from(settings, where)
    spec, names = store.arrays(WEIGHTS)
    arrays = {}
    for name in names:
        array = open_array(spec, name, folder)
        if array.dtype.name not in (*files.STORED_DTYPES, "float16"):
            raise UserError(f"{folder}: '{name}' holds {array.dtype.name}; save it as float32")
        arrays[name] = stored(array, name, folder)
    shapes = {name: one.shape for name, one in arrays.items()}
    origins = match(shapes, t5x_shapes(config), DOTTED_TABLE, folder)
    found = {target: arrays[origin.name] for target, origin in origins.items()}
    check_dtypes({origins[t].name: (t, one.dtype) for t, one in found.items()}, folder)
    vocabulary = files.vocabulary_of(store.where(files.SPIECE), settings, where)
    local = None if is_bucket(folder) else folder
    return Checkpoint(config, LazyArrays(found), vocabulary, local)


def write_weights(folder: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `weights/`; each array is on the host once, the whole model at the same time."""
    import orbax.checkpoint as ocp

    handlers = ocp.type_handlers
    known = ((np.ndarray, handlers.NumpyHandler(deepcopy_host_arrays=False)),)
    registry = handlers.create_type_handler_registry(*known, (jax.Array, handlers.ArrayHandler()))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, type_handler_registry=registry)
    tree = traverse_util.unflatten_dict(
        {tuple(name.split("/")): np.ascontiguousarray(arrays[name]) for name in arrays}
    )
    target = folder if is_bucket(folder) else str(Store(folder).spec["path"]).rstrip("/")
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(f"{target}/{WEIGHTS}", args=ocp.args.PyTreeSave(tree))
