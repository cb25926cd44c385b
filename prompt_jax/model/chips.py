"""Accelerators as their makers describe them.

Peaks are of dense matrices. `ici` is what one chip can send to its neighbours at a time: half of
the bidirectional figure of the vendor's page. TPU pages: https://cloud.google.com/tpu/docs/v4 (v5e,
v5p, v6e in its place); they give HBM in GiB though they write GB. GPU pages:
https://www.nvidia.com/en-us/data-center/h100/ and .../h200/ (SXM; half of the peaks with sparsity).
"""

from dataclasses import dataclass

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
    Chip(
        "v4",
        275e12,
        275e12,
        32 * GIB,
        1228e9,
        150e9,
        _TPU + "v4",
        {"chip_config_name": "megacore"},
        (2, 2, 1),
    ),
    Chip("v5e", 197e12, 393e12, 16 * GIB, 819e9, 200e9, _TPU + "v5e", {}, (2, 2)),
    Chip("v5p", 459e12, 918e12, 95 * GIB, 2765e9, 600e9, _TPU + "v5p", {}, (2, 2, 1)),
    Chip("v6e", 918e12, 1836e12, 32 * GIB, 1640e9, 400e9, _TPU + "v6e", {}, (2, 2)),
    Chip("h100", 989e12, 1979e12, int(80e9), 3350e9, 450e9, _GPU + "h100/"),
    Chip("h200", 989e12, 1979e12, int(141e9), 4800e9, 450e9, _GPU + "h200/"),
)
CHIPS = {chip.name: chip for chip in _CHIPS}
# What JAX calls them (`Device.device_kind`), in lower case; the first that is part of it counts.
_KINDS = {
    "tpu v4": "v4",
    "tpu v5 lite": "v5e",
    "tpu v5e": "v5e",
    "tpu v5": "v5p",
    "tpu v6": "v6e",
    "h100": "h100",
    "h200": "h200",
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None: not one of CHIPS.

    >>> chip_of("TPU v5 lite").name, chip_of("NVIDIA H100 80GB HBM3").name, chip_of("cpu")
    ('v5e', 'h100', None)
    """
    names = [name for kind, name in _KINDS.items() if kind in device_kind.lower()]
    return CHIPS[names[0]] if names else None
