"""T5X's checkpoint of a prompt: the msgpack index, version 3, and a zarr folder for the rows.

The parameter's name is prompt-tuning's, `target/encoder/prompt/prompt/prompt`. We write that one
array and the step, as T5X writes any array; from a whole checkpoint of theirs, msgpack or Orbax, we
read that one array and nothing else.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
from flax import serialization

from prompt_jax.errors import UserError
from prompt_jax.export.formats import beyond_rows, checked_rows

if TYPE_CHECKING:
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt

PARAMETER = ("encoder", "prompt", "prompt", "prompt")
DOTTED = ".".join(("target", *PARAMETER))
INDEX = "checkpoint"


def refusal(prompt: "Prompt") -> str | None:
    return beyond_rows(prompt)


def write(path: Path, prompt: "Prompt", about: "About") -> None:
    rows = prompt.array
    spec = {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": f"{DOTTED}/"},
        "metadata": {
            "chunks": list(rows.shape),
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(rows.shape),
        },
    }
    path.mkdir()
    ts.open(_located(spec, path), create=True).result().write(rows).result()
    target: Any = spec
    for name in reversed(PARAMETER):
        target = {name: target}
    state = {"param_states": {}, "step": np.asarray(about.step, np.int32)}
    tree = {"version": 3, "optimizer": {"state": state, "target": target}}
    (path / INDEX).write_bytes(serialization.msgpack_serialize(tree))


def _located(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A leaf of the index with its path made absolute, as T5X does before it opens it."""
    inside = spec["kvstore"]["path"]
    return {**spec, "kvstore": {**spec["kvstore"], "path": f"{folder.resolve()}/{inside}"}}


def consume(path: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    """T5X's way in: the index by flax, a leaf that describes a folder by TensorStore."""
    index: Any = serialization.msgpack_restore((Path(path) / INDEX).read_bytes())
    assert index["version"] == 3, index["version"]
    leaf = index["optimizer"]["target"]
    for name in PARAMETER:
        leaf = leaf[name]
    rows = ts.open(ts.Spec(_located(leaf, Path(path))), open=True).result().read().result()
    return {"encoder": rows, "step": index["optimizer"]["state"]["step"]}


def read(path: str) -> "Prompt":
    from prompt_jax.prompt.artefact import Prompt

    folder = Path(path)
    if (folder / INDEX).is_file():
        array, step = _from_index(folder)
    elif (folder / "state").is_dir():
        array, step = _from_orbax(folder / "state"), None
    else:
        raise UserError(
            repr(str(path)),
            "no T5X checkpoint there",
            f"give the folder that holds {INDEX!r} or 'state'",
        )
    rows = np.asarray(array).astype(np.float32)
    return Prompt({"encoder": checked_rows(rows, DOTTED, path)}, {"step": step}, path)


def _from_index(folder: Path) -> tuple[np.ndarray, int | None]:
    path = folder / INDEX
    try:
        optimizer = serialization.msgpack_restore(path.read_bytes())["optimizer"]
        leaf, step = optimizer["target"], int(optimizer["state"]["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(path)!r}", "not a whole T5X checkpoint", "copy it again") from error
    for name in PARAMETER:
        if not isinstance(leaf, dict) or name not in leaf:
            raise _no_prompt(folder)
        leaf = leaf[name]
    if isinstance(leaf, np.ndarray):
        return leaf, step
    return _read(_located(leaf, folder), folder), step


def _from_orbax(state: Path) -> np.ndarray:
    store: dict[str, Any] = {"driver": "file", "path": f"{state.resolve()}/"}
    if (state / "manifest.ocdbt").is_file():
        store = {"driver": "ocdbt", "base": store, "path": f"{DOTTED}/"}
        there = ts.KvStore.open(store).result().list().result()
    else:
        store["path"] += f"{DOTTED}/"
        there = (state / DOTTED).is_dir()
    if not there:
        raise _no_prompt(state.parent)
    return _read({"driver": "zarr", "kvstore": store}, state.parent)


def _no_prompt(folder: Path) -> UserError:
    name = "/".join(("target", *PARAMETER))
    return UserError(f"{str(folder)!r}", f"has no {name}", "give a checkpoint of prompt-tuning's")


def _read(spec: dict[str, Any], folder: Path) -> np.ndarray:
    spec = {**spec, "fill_missing_data_reads": False}  # a chunk that is not there is an error
    try:
        return ts.open(spec, open=True, read=True).result().read().result()
    except (ValueError, OSError) as error:
        raise UserError(f"{str(folder)!r}", f"{DOTTED!r} is damaged", "copy it again") from error
