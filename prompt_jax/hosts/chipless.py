"""libtpu, which `fit` compiles by, on a machine without a TPU.

JAX starts every platform that it has a library for. Without a chip libtpu looks for one for half a
minute and prints errors, so that JAX is told to use the CPU. Imports nothing heavy.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import MutableMapping
from pathlib import Path

GOOGLE = "0x1ae0"  # the vendor of TPUs among the devices of a machine
PCI = Path("/sys/bus/pci/devices")


def be_quiet(environ: MutableMapping[str, str] = os.environ, devices: Path = PCI) -> None:
    """Sets JAX_PLATFORMS=cpu where libtpu is there and nothing else than CPUs can be.

    Nothing is set where that or JAX_FORCE_TPU_INIT is, where a device of Google's is there, and
    where a plugin (CUDA, ROCm, ...) brings another platform.
    """
    given = {"JAX_PLATFORMS", "JAX_FORCE_TPU_INIT"} & set(environ)
    if given or importlib.util.find_spec("libtpu") is None:
        return
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not _google(devices) and not plugins:
        environ["JAX_PLATFORMS"] = "cpu"


def has_tpu(devices: Path = PCI, files: Path = Path("/dev")) -> bool:
    """Whether a TPU is here. A network card of Google's is none."""
    return _google(devices) and any((files / name).exists() for name in ("accel0", "vfio/0"))


def _google(devices: Path) -> bool:
    return GOOGLE in {path.read_text().strip() for path in devices.glob("*/vendor")}
