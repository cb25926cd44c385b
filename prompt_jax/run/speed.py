"""How fast a run is, of what its devices could do, and the memory that it takes.

All of these are read from clocks and counters: they differ from one time to the next, and nothing
that a run computes depends on them.
"""

import functools
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import monitoring

from prompt_jax.data.source import Data
from prompt_jax.model.chips import chip_of
from prompt_jax.model.t5 import T5Config
from prompt_jax.run.flops import least
from prompt_jax.run.settings import Train

# Fields of records in metrics.jsonl that a clock or a counter of this machine decides.
CLOCKED = (
    "seconds",
    "seconds_per_step",
    "examples_per_second",
    "tokens_per_second",
    "model_flops_utilisation",
    "input_share",
    "compile_seconds",
    "compiled_programs",
    "device_bytes",
    "device_peak_bytes",
    "host_peak_bytes",
)
_COMPILING = "/jax/core/compile/backend_compile_duration"
SIDE, ROUNDS = 768, 3  # of the products that measure a CPU


class _CompileClock:
    """Seconds that this process spent in XLA's compiler, reading its cache included, and programs
    that it gave."""

    def __init__(self):
        self.seconds, self.programs = 0.0, 0
        monitoring.register_event_duration_secs_listener(self._add)

    @property
    def state(self) -> tuple[float, int]:
        """Seconds and programs."""
        return self.seconds, self.programs

    def _add(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILING:
            self.seconds += duration_secs
            self.programs += 1


@functools.cache
def compile_clock() -> _CompileClock:
    """The one of this process; it counts from the first call on."""
    return _CompileClock()


@functools.cache
def cpu_peak() -> float:
    """float32 FLOP/s of this machine's CPU: the best of a few products of matrices by BLAS."""
    x = np.ones((SIDE, SIDE), np.float32)
    seconds = []
    for _ in range(ROUNDS + 1):  # the first one starts BLAS's threads
        began = time.perf_counter()
        _ = x @ x
        seconds.append(time.perf_counter() - began)
    return 2.0 * SIDE**3 / min(seconds)


def peak_flops(devices: Sequence[Any]) -> float | None:
    """FLOP/s of all `devices` together: bfloat16, by the vendor; float32, measured, of a CPU.

    None where the chip is not in `chips.CHIPS`. CPU devices of one process are one machine.
    """
    if devices[0].platform == "cpu":
        return cpu_peak() * len({device.process_index for device in devices})
    chip = chip_of(devices[0].device_kind)
    return None if chip is None else chip.flops * len(devices)


def memory() -> dict[str, float]:
    """Bytes: the most that this process ever took of the host, and what its devices hold and ever
    held, of the fullest of them; a CPU's devices count nothing."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host_peak_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
    stats = [facts for d in jax.local_devices() if (facts := d.memory_stats())]
    for name, key in (("device_bytes", "bytes_in_use"), ("device_peak_bytes", "peak_bytes_in_use")):
        values = [facts[key] for facts in stats if key in facts]
        if values:
            peaks[name] = float(max(values))
    return peaks


def platform() -> str:
    """What the run computes on, for its opening line: `cpu`, or `gpu (8 x NVIDIA H100)`."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return "cpu"
    return f"{devices[0].platform} ({len(devices)} x {devices[0].device_kind})"


@dataclass(frozen=True)
class Speed:
    """What a step has to compute, and what the devices could.

    Attributes:
      flops: of one step, all rows: the least that its mathematics needs (`flops.least`), without
        what is computed again to save memory. So the ratio is the model FLOP utilisation of
        Chowdhery et al. 2022 (https://arxiv.org/abs/2204.02311, appendix B).
      peak: FLOP/s of all devices of the mesh; None: not known.
    """

    flops: float
    peak: float | None

    @classmethod
    def of(cls, run: Train, config: T5Config, mesh: jax.sharding.Mesh) -> "Speed":
        if isinstance(run.data, Data) and run.data.buckets:  # steps differ
            return cls(0.0, None)
        return cls(least(run, config)[0], peak_flops(list(mesh.devices.flat)))

    def utilisation(self, seconds_per_step: float) -> dict[str, float]:
        """{"model_flops_utilisation": share of the peak}; {} where that is not known."""
        if self.peak is None:
            return {}
        return {"model_flops_utilisation": self.flops / seconds_per_step / self.peak}
