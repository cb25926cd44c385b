"""Accelerators as their makers describe them, and the topologies that can be asked for.

Peaks are of dense matrices. `ici` is what one chip can send to its neighbours at a time: half of
the bidirectional figure of the vendor's page. TPU pages: https://cloud.google.com/tpu/docs/v4 (v5e,
v5p, v6e in its place); they give HBM in GiB though they write GB. GPU pages:
https://www.nvidia.com/en-us/data-center/h100/ and .../h200/ (SXM; half of the peaks with sparsity).
"""

import re
from dataclasses import dataclass

from prompt_jax.errors import UserError

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      name: how a topology begins.
      flops: bfloat16 FLOP/s.
      int8: int8 operations per second.
      hbm: bytes of memory.
      bandwidth: of that memory, bytes/s.
      ici: bytes/s that it can send to other chips, over all of its links.
      source: the vendor's page.
      options: what libtpu has to be told of it; None: no compiler is at hand, shapes must do.
      host: chips per host along x, y (and z), as libtpu divides a slice.
    """

    name: str
    flops: float
    int8: float
    hbm: int
    bandwidth: float
    ici: float
    source: str
    options: dict[str, str] | None = None
    host: tuple[int, ...] = ()

    @property
    def is_gpu(self) -> bool:
        return self.options is None


_TPU, _GPU = "https://cloud.google.com/tpu/docs/", "https://www.nvidia.com/en-us/data-center/"
_CHIPS = (
    # v4 has two cores that work as one device, which libtpu has to be told.
    Chip("v4", 275e12, 275e12, 32 * GIB, 1228e9, 150e9, _TPU + "v4",
         {"chip_config_name": "megacore"}, (2, 2, 1)),
    Chip("v5e", 197e12, 393e12, 16 * GIB, 819e9, 200e9, _TPU + "v5e", {}, (2, 2)),
    Chip("v5p", 459e12, 918e12, 95 * GIB, 2765e9, 600e9, _TPU + "v5p", {}, (2, 2, 1)),
    Chip("v6e", 918e12, 1836e12, 32 * GIB, 1640e9, 400e9, _TPU + "v6e", {}, (2, 2)),
    Chip("h100", 989e12, 1979e12, int(80e9), 3350e9, 450e9, _GPU + "h100/"),
    Chip("h200", 989e12, 1979e12, int(141e9), 4800e9, 450e9, _GPU + "h200/"),
)  # fmt: skip
CHIPS = {chip.name: chip for chip in _CHIPS}
KNOWN = "v5e:2x2, v6e:8x8, v4:2x2x2, v5p:4x4x4, h100:8, h200:8 and other sizes of these"
MOST = 8192  # chips


@dataclass(frozen=True)
class Topology:
    """A slice of TPUs or a number of GPUs: `shape` is chips along each axis."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        total = 1
        for side in self.shape:
            total *= side
        return total


def parse(name: str) -> Topology:
    """`v5e:4x4` -> the topology.

    Raises:
      UserError: an unknown chip, another number of axes than the chip has, or sides that hosts do
        not fill.
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        raise UserError(f"--topology={name}", f"the known ones are {KNOWN}")
    chip, shape = CHIPS[kind], tuple(int(side) for side in sides.split("x"))
    axes = len(chip.host) or 1
    if len(shape) != axes:
        example = "x".join("4" * axes) if axes > 1 else "8"
        raise UserError(f"--topology={name}", f"{kind} has {axes} axes", f"write {kind}:{example}")
    topology = Topology(name, chip, shape)
    if topology.size > MOST:
        raise UserError(f"--topology={name}", f"{topology.size:,} chips", f"give at most {MOST:,}")
    whole = all(side % host == 0 for side, host in zip(shape, chip.host, strict=False))
    if not (whole or topology.size == 1):
        host = "x".join(map(str, chip.host))
        raise UserError(
            f"--topology={name}", remedy=f"give one chip, or multiples of a host's {host} chips"
        )
    return topology
