"""Where arrays live: mesh axes, one table from logical to mesh axes, and shardings made from it."""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from prompt_jax.errors import Setting, UserError
from prompt_jax.settings import at_least, settings

AXES = ("data", "fsdp", "model")

# Logical axis -> mesh axes: of parameters, then of activations. There is no rule for all others.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "layers": None,
    "vocab": "model",
    "heads": "model",
    "mlp": "model",
    "embed": "fsdp",
    "heads_bias": None,
    "buckets": None,
    "norm": None,
    "rows": ("data", "fsdp"),
    "length": None,
    "features": None,
}


@settings
class MeshShape:
    """Devices along each mesh axis; one of them may be -1 (all that are left).

    Attributes:
      data: copies of the model, each with its own rows.
      fsdp: rows are split here as well, and so are the weights, gathered where used.
      model: tensor parallelism.
      slices: TPU slices (or pods), joined by the data centre's network alone. `data` is shared out
        over them, so that only the prompt's gradient crosses. None: as many as the devices are in.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1
    slices: int | None = None

    def check(self):
        sizes = {"fsdp": self.fsdp, "model": self.model, "data": self.data}
        at_least("MeshShape", 1, {"slices": self.slices})
        for name, size in sizes.items():
            if size < 1 and (size != -1 or list(sizes.values()).count(-1) > 1):
                offender = Setting("MeshShape", name, size)
                raise UserError(offender, remedy="give 1 or more, or -1 on one axis")

    def build(self, devices=None) -> Mesh:
        """The mesh; on TPUs neighbours in it are neighbours on the chips' own network."""
        grid = self.grid(jax.devices() if devices is None else devices)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def grid(self, devices) -> np.ndarray:
        """The devices as an array [data, fsdp, model]; UserError where they do not fit."""
        sizes = [self.data, self.fsdp, self.model]
        known = math.prod(s for s in sizes if s != -1)
        if len(devices) % known or (-1 not in sizes and known != len(devices)):
            n = len(devices)
            raise UserError(
                f"MeshShape {dict(zip(AXES, sizes, strict=True))}",
                f"does not fit {n} devices (sizes that divide {n}: {divisors(n)})",
                "the product must equal their number (-1 takes what is left)",
            )
        sizes = [len(devices) // known if s == -1 else s for s in sizes]
        return _arranged(devices, sizes, self._slices(devices, sizes[0]))

    def _slices(self, devices, data: int) -> int:
        there = _slices_of(devices) if devices[0].platform == "tpu" else None
        slices = self.slices or there or 1
        if there is not None and slices != there:
            raise UserError(
                Setting("MeshShape", "slices", slices), f"the devices are in {there} slices"
            )
        if data % slices:
            raise UserError(
                Setting("MeshShape", "slices", slices),
                f"does not divide data = {data}: a slice holds whole copies of the model",
                f"take one of {divisors(data)}",
            )
        return slices


def _slices_of(devices) -> int:
    """How many slices TPUs are in; those that `fit` describes to the compiler are in one."""
    try:
        return len({d.slice_index for d in devices})
    except AttributeError:
        return 1


def _arranged(devices, sizes: list[int], slices: int) -> np.ndarray:
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    inner = [sizes[0] // slices, *sizes[1:]]
    try:
        if slices > 1:
            return mesh_utils.create_hybrid_device_mesh(
                inner, [slices, 1, 1], devices, allow_split_physical_axes=True
            )
        return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"MeshShape {dict(zip(AXES, sizes, strict=True))}",
            f"cannot be laid on these {len(devices)} TPU chips "
            f"({' '.join(str(error).split())[:120]})",
            "take other sizes",
        ) from error


def divisors(n: int) -> str:
    """
    >>> divisors(12)
    '1, 2, 3, 4, 6, 12'
    """
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(RULES["rows"]))


def check_rows(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Refuses a batch whose rows cannot be shared out evenly."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size % shards:
        raise UserError(
            f"BATCH_SIZE = {batch_size}",
            f"cannot be split over {shards} (data {mesh.shape['data']} x fsdp "
            f"{mesh.shape['fsdp']} x accumulate {accumulate})",
            f"take a multiple of {shards}",
        )


def params(mesh: Mesh | AbstractMesh, state: nnx.State) -> nnx.State:
    """A sharding for every variable: by its logical `axes` and RULES. What a method trains beside
    the T5 has no axes and is replicated.

    The values and the scales of a quantised kernel have one each (see `unsplit`).
    """
    flat = []
    for path, variable in nnx.to_flat_state(state):
        axes = variable.get_metadata().get("axes", ())
        spec = [_mesh_axis(axis, path) for axis in axes]
        value = variable.get_value()
        if isinstance(variable, nnx.Param) and len(axes) != len(value.shape):
            raise UserError(
                f"{_name(path)} {list(value.shape)}", "no logical axes, no sharding rule"
            )
        for dim, (axis, size) in enumerate(zip(spec, value.shape, strict=False)):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"{_name(path)} {list(value.shape)}",
                    (
                        f"dim {dim} ({axes[dim]}, {size}) is not divisible by mesh axis {axis} = "
                        f"{mesh.shape[axis]}"
                    ),
                    f"sizes of {axis} that divide it: {divisors(math.gcd(size, mesh.size))}",
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


def _mesh_axis(axis: str, path: Any) -> Any:
    if axis not in RULES:
        raise UserError(_name(path), f"no sharding rule for logical axis {axis!r}")
    return RULES[axis]


def _name(path: Any) -> str:
    return "/".join(map(str, path))


def local_rows(sharding: NamedSharding, total: int) -> slice:
    """The least range around the rows of a batch of `total` that this process's devices hold."""
    indices = sharding.addressable_devices_indices_map((total,)).values()
    bounds = [index[0].indices(total) for index in indices if index is not None]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def put_rows(
    batch: dict[str, np.ndarray], sharding: NamedSharding, here: slice, total: int
) -> dict[str, jax.Array]:
    """Global arrays of `total` rows, of which `batch` holds those in `here` (`local_rows`)."""

    def put(value: np.ndarray) -> jax.Array:
        def rows(index):
            start, stop, _ = index[0].indices(total)
            return value[start - here.start : stop - here.start]

        return jax.make_array_from_callback((total, *value.shape[1:]), sharding, rows)

    return {name: put(value) for name, value in batch.items()}


def put_all(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays of a batch that every process holds whole."""
    total = len(next(iter(batch.values())))
    return put_rows(batch, rows(mesh), slice(0, total), total)


def fetch(x: jax.Array) -> np.ndarray:
    """The whole of an array on every host; all processes have to ask for it."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def whole(tree: Any) -> Any:
    """The same arrays, those that other hosts hold parts of fetched into the memory of this one."""
    host = jax.local_devices(backend="cpu")[0]
    local = lambda x: x if x.is_fully_addressable else jax.device_put(fetch(x), host)  # noqa: E731
    return jax.tree.map(local, tree)
