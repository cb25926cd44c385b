"""The project's own Orbax layout of a backbone, local or `gs://`.

A folder holds `config.json` and `spiece.model` as in `files.py`, and `weights/`: an Orbax PyTree of
T5X's per-layer names (`encoder/layers_0/attention/query/kernel`), in an OCDBT database. Each array
is read straight from there, in parts where only parts are wanted.

In a quantised copy a kernel [D, F] is `kernel/qvalue` [D, F] in int8, int4 or float8_e4m3fn and
`kernel/scale` float32 [1, F], and `config.json` has the key "quantised": `weights_dtype`, `source`
and `contents` (`checkpoint.Quantised`).
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from prompt_jax.backbone.formats import Checkpoint, LazyArrays, Quantised, Stored, files
from prompt_jax.backbone.formats.names import DOTTED_TABLE, QUANTISED_TABLE, check_dtypes, match
from prompt_jax.backbone.formats.store import Store, is_bucket, open_array, stored
from prompt_jax.backbone.weights import quantised_shapes, t5x_shapes
from prompt_jax.errors import UserError
from prompt_jax.model import quantised

WEIGHTS, QUANTISED = "weights", "quantised"
AT_ONCE = 64 << 20  # bytes
CHUNK = 8 << 20  # bytes of one chunk, before compression: a part of an array is read by its chunks
FLOATS = (*files.STORED_DTYPES, "float16")


def open_orbax(folder: str) -> Checkpoint:
    """A backbone in our Orbax layout, checked; its weights are read on demand."""
    store = Store(folder)
    settings = store.json("config.json")
    if settings is None:
        raise UserError(store.where("config.json"), "no such file", "give a folder of `convert`")
    where = store.where("config.json")
    if "format" not in settings or settings["format"] != files.FORMAT:
        raise UserError(where, "not in our own format", "give a folder of `convert`")
    copy = _copy(settings.pop(QUANTISED, None), where)
    config = files.config_from(settings, where)
    spec, names = store.arrays(WEIGHTS)
    arrays = {name: stored(open_array(spec, name, folder), name, folder) for name in names}
    for name, one in arrays.items():
        known = FLOATS if copy is None else (*FLOATS, copy.weights_dtype)
        if one.dtype.name not in known:
            raise UserError(folder, f"'{name}' holds {one.dtype.name}", "save it as float32")
    shapes = {name: one.shape for name, one in arrays.items()}
    wanted = t5x_shapes(config) if copy is None else quantised_shapes(config)
    table = DOTTED_TABLE if copy is None else QUANTISED_TABLE
    origins = match(shapes, wanted, table, folder)
    targets = {target: arrays[origin.name] for target, origin in origins.items()}
    _check_all_dtypes({origins[t].name: (t, one.dtype) for t, one in targets.items()}, copy, folder)
    vocabulary = files.vocabulary_of(store.where, settings, where)
    local = None if is_bucket(folder) else folder
    return Checkpoint(config, LazyArrays(targets), vocabulary, local, copy)


def _copy(described: Any, where: str) -> Quantised | None:
    """What config.json says of a quantised copy, None where it says nothing."""
    if described is None:
        return None
    keys = {field.name for field in fields(Quantised)}
    if (
        not isinstance(described, dict)
        or set(described) != keys
        or described["weights_dtype"] not in (quantised.DTYPES)
    ):
        raise UserError(where, f"'{QUANTISED}' = {described!r} is not as `convert` writes it")
    return Quantised(**described)


def _check_all_dtypes(dtypes: dict[str, tuple[str, Any]], copy: Quantised | None, where: str):
    """`check_dtypes`; in a quantised copy values and scales have dtypes of their own."""
    if copy is not None:
        for end, dtype in (("/qvalue", copy.weights_dtype), ("/scale", "float32")):
            of_kernels = {n: one for n, one in dtypes.items() if one[0].endswith(f"/kernel{end}")}
            for name, (_, kernel_dtype) in of_kernels.items():
                if str(kernel_dtype) != dtype:
                    raise UserError(
                        where, f"'{name}' holds {kernel_dtype}, not {dtype}", "convert it again"
                    )
            dtypes = {name: one for name, one in dtypes.items() if name not in of_kernels}
    check_dtypes(dtypes, where)


def write_weights(folder: str, arrays: LazyArrays) -> None:
    """Writes `weights/`; on the host is one array at a time, or as many small ones as AT_ONCE."""
    import orbax.checkpoint as ocp

    handlers = ocp.type_handlers

    class InTurn(handlers.NumpyHandler):
        """Orbax's handler of numpy arrays, given what is `Stored`: read when its turn comes."""

        async def serialize(self, values: Any, infos: Any, args: Any = None):
            for group in _groups(values):
                arrays = [np.ascontiguousarray(values[i].whole()) for i in group]
                more = [infos[i] for i in group], [args[i] for i in group]
                for written in await super().serialize(arrays, *more):
                    written.result()
                del arrays
            return []

    known = ((Stored, InTurn(deepcopy_host_arrays=False)),)
    registry = handlers.create_type_handler_registry(*known, (jax.Array, handlers.ArrayHandler()))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, type_handler_registry=registry)
    tree = traverse_util.unflatten_dict(
        {tuple(name.split("/")): one for name, one in arrays.stored.items()}
    )
    chunked = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), tree)
    target = folder if is_bucket(folder) else str(Store(folder).spec["path"]).rstrip("/")
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(f"{target}/{WEIGHTS}", args=ocp.args.PyTreeSave(tree, chunked))


def _groups(values: Sequence[Stored]) -> list[list[int]]:
    """Indices of arrays that are read and written together."""
    groups: list[list[int]] = [[]]
    filled = 0
    for i, one in enumerate(values):
        size = math.prod(one.shape) * one.dtype.itemsize
        if groups[-1] and filled + size > AT_ONCE:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += size
    return groups
