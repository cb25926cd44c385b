"""Where arrays live: mesh axes, one table from logical to mesh axes, and shardings made from it."""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from prompt_jax.errors import UserError
from prompt_jax.settings import settings

AXES = ("data", "fsdp", "model")

RULES: dict[str, str | None] = {  # logical axis of a parameter -> mesh axis
    "layers": None,
    "vocab": "model",
    "heads": "model",
    "mlp": "model",
    "embed": "fsdp",
    "heads_bias": None,
    "buckets": None,
    "norm": None,
}


@settings
class MeshShape:
    """Devices along each mesh axis; one of them may be -1 (all that are left).

    Attributes:
      data: copies of the model, each with its own rows.
      fsdp: rows are split here as well, and so are the weights, gathered where used.
      model: tensor parallelism.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def build(self, devices=None) -> Mesh:
        devices = jax.devices() if devices is None else devices
        sizes = [self.data, self.fsdp, self.model]
        if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
            raise UserError(f"MeshShape {sizes}: sizes are >= 1, and at most one of them is -1")
        known = math.prod(s for s in sizes if s != -1)
        if len(devices) % known or (-1 not in sizes and known != len(devices)):
            raise UserError(
                f"MeshShape {dict(zip(AXES, sizes, strict=True))} does not fit {len(devices)} "
                "devices: the product must equal their number (-1 takes what is left)"
            )
        sizes = [len(devices) // known if s == -1 else s for s in sizes]
        grid = np.asarray(devices).reshape(sizes)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_rows(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Refuses a batch whose rows cannot be shared out evenly."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size % shards:
        raise UserError(
            f"BATCH_SIZE = {batch_size} cannot be split over {shards} "
            f"(data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x accumulate {accumulate}): "
            f"take a multiple of {shards}"
        )


def params(mesh: Mesh, state: nnx.State) -> nnx.State:
    """A sharding for every variable: by its logical `axes` and RULES; replicated without axes.

    The values and the scales of a quantised kernel have one each (see `unsplit`).
    """
    flat = []
    for path, variable in nnx.to_flat_state(state):
        axes = variable.get_metadata().get("axes", ())
        spec = [_mesh_axis(axis, path) for axis in axes]
        value = variable.get_value()
        for dim, (axis, size) in enumerate(zip(spec, value.shape, strict=False)):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"{'/'.join(map(str, path))} {list(value.shape)}: dim {dim} ({axes[dim]}, "
                    f"{size}) is not divisible by mesh axis {axis} = {mesh.shape[axis]}"
                )
        place = NamedSharding(mesh, PartitionSpec(*spec))
        places = jax.tree.map(lambda x, place=place: unsplit(place, x.shape), value)
        flat.append((path, variable.replace(places)))
    return nnx.from_flat_state(flat)


def unsplit(place: Any, shape: tuple[int, ...]) -> Any:
    """`place` for an array like its own, but with a 1 (a quantised kernel's scale) in some axes."""
    if not isinstance(place, NamedSharding):
        return place
    spec = [None if size == 1 else axis for axis, size in zip(place.spec, shape, strict=False)]
    return NamedSharding(place.mesh, PartitionSpec(*spec))


def _mesh_axis(axis: str, path: Any) -> str | None:
    if axis not in RULES:
        raise UserError(f"{'/'.join(map(str, path))}: no sharding rule for logical axis {axis!r}")
    return RULES[axis]


def put_rows(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Global arrays from the rows that this process holds."""
    put = jax.make_array_from_process_local_data
    return {name: put(sharding, value) for name, value in batch.items()}
