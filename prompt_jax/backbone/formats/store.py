"""Folders as TensorStore sees them, local or `gs://`: small files, and zarr arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from prompt_jax.backbone.formats import Box, Stored
from prompt_jax.contents import json_object
from prompt_jax.errors import UserError

ERRORS = (ValueError, OSError, NotImplementedError)  # what TensorStore raises


def is_bucket(path: str) -> bool:
    return path.startswith("gs://")


class Store:
    """One folder. Nothing is cached, so that what is read twice is read twice."""

    def __init__(self, path: str):
        self.path = path.rstrip("/") if len(path) > 1 else path
        if is_bucket(path):
            bucket, _, inside = self.path.removeprefix("gs://").partition("/")
            self.spec: dict[str, Any] = {"driver": "gcs", "bucket": bucket}
            self.spec["path"] = f"{inside}/" if inside else ""
        else:
            self.spec = {"driver": "file", "path": f"{Path(self.path).expanduser().resolve()}/"}
        self._files = self._opened(self.spec)

    def _opened(self, spec: dict[str, Any]) -> ts.KvStore:
        try:
            return ts.KvStore.open(spec).result()
        except ERRORS as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:160]
        return UserError(self.path, f"cannot be read ({reason})", "check the path and your access")

    def read(self, name: str) -> bytes | None:
        """The contents of a file, None where there is none."""
        try:
            result = self._files.read(name).result()
        except ERRORS as error:
            if not is_bucket(self.path) and not (Path(self.spec["path"]) / name).is_file():
                return None
            raise self._unreadable(error) from error
        return result.value if result.state == "value" else None

    def write(self, name: str, value: bytes) -> None:
        self._files.write(name, value).result()

    def json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file, None where there is no file."""
        data = self.read(name)
        if data is None:
            return None
        return json_object(data, self.where(name))

    def where(self, name: str) -> str:
        return f"{self.path}/{name}"

    def inside(self, name: str) -> dict[str, Any]:
        """TensorStore's description of a folder in this one."""
        return {**self.spec, "path": f"{self.spec['path']}{name}/"}

    def keys(self) -> list[str]:
        """Every file in the folder and below."""
        try:
            return [key.decode() for key in self._files.list().result()]
        except ERRORS as error:
            raise self._unreadable(error) from error

    def arrays(self, folder: str) -> tuple[dict[str, Any], list[str]]:
        """An Orbax item: where its zarr arrays are (OCDBT or folders), and their names."""
        spec = self.inside(folder)
        if self.read(f"{folder}/manifest.ocdbt") is not None:
            spec = {"driver": "ocdbt", "base": spec, "path": ""}
        try:
            keys = [key.decode() for key in self._opened(spec).list().result()]
        except ERRORS as error:
            raise self._unreadable(error) from error
        return spec, [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]


def read_file(path: str) -> bytes:
    """The contents of a file, local or in a bucket; OSError where there is none."""
    if not is_bucket(path):
        return Path(path).expanduser().read_bytes()
    folder, _, name = path.rpartition("/")
    content = Store(folder).read(name)
    if content is None:
        raise FileNotFoundError(path)
    return content


def open_array(spec: dict[str, Any], name: str, where: str) -> ts.TensorStore:
    """A zarr array in the folder or database `spec`."""
    kvstore = {**spec, "path": f"{spec['path']}{name}/"}
    # A chunk that is not there is an error, not zeros.
    wanted = {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}
    try:
        array = ts.open(wanted, open=True, read=True).result()
    except ERRORS as error:
        raise UserError(where, f"'{name}' is missing or damaged", "copy it again") from error
    stored_dtype = array.spec().to_json()["metadata"]["dtype"]
    if stored_dtype.startswith(">"):
        raise UserError(where, f"'{name}' holds {stored_dtype}", "save it as float32 or bfloat16")
    return array


def stored(array: ts.TensorStore, name: str, where: str) -> Stored:
    """An opened array as every reader gives them."""

    def read(box: Box) -> np.ndarray:
        try:
            return array[box].read().result()
        except ERRORS as error:
            raise UserError(
                where, f"'{name}' is incomplete", "copy the checkpoint again"
            ) from error

    return Stored(tuple(array.shape), array.dtype.numpy_dtype, read)


def write_array(spec: dict[str, Any], name: str, source: Stored, piece: int = 64 << 20) -> None:
    """Writes a zarr array as T5X does: gzip, level 1, in chunks of at most `piece` bytes.

    The chunks part the longest axis evenly; what is read of `source` at a time is one chunk.
    """
    chunks = chunk_shape(source.shape, source.dtype.itemsize, piece)
    kvstore = {**spec, "path": f"{spec['path']}{name}/"}
    wanted = {
        "driver": "zarr",
        "kvstore": kvstore,
        "metadata": {"chunks": chunks, "compressor": {"id": "gzip", "level": 1}},
    }
    array = ts.open(wanted, create=True, dtype=source.dtype.name, shape=list(source.shape)).result()
    axis = int(np.argmax(source.shape))
    for start in range(0, source.shape[axis], chunks[axis]):
        box = [slice(0, size) for size in source.shape]
        box[axis] = slice(start, start + chunks[axis])
        array[tuple(box)].write(source.read(tuple(box))).result()


def chunk_shape(shape: tuple[int, ...], itemsize: int, piece: int) -> list[int]:
    """`shape` with its longest axis divided by the least divisor that keeps chunks in `piece`."""
    axis = int(np.argmax(shape))
    total, size = int(np.prod(shape)) * itemsize, shape[axis]
    parts = next(
        n for n in range(1, size + 1) if size % n == 0 and (total <= piece * n or n == size)
    )
    return [n // parts if i == axis else n for i, n in enumerate(shape)]
