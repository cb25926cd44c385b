"""A CPU's cores as JAX devices, over which the members of a farm lie.

XLA computes a program of several members mostly on one core: it shares out large products alone.
With a device for each core, every core has members of its own.
"""

import contextlib
import math
import os

import jax
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import read_config
from prompt_jax.run.settings import Train

SHARE = 0.25  # of the host's memory, which copies of the weights may take
SET = "xla_force_host_platform_device_count"


def spread(run: Train, members: int) -> None:
    """Makes devices of the cores, `devices_for` so many members, before JAX starts.

    What the user has said stays: a mesh, JAX_NUM_CPU_DEVICES, XLA_FLAGS. Other platforms keep their
    devices.
    """
    given = "JAX_NUM_CPU_DEVICES" in os.environ or SET in os.environ.get("XLA_FLAGS", "")
    if given or run.mesh.data != -1:
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    count = devices_for(run, members, len(os.sched_getaffinity(0)), memory)
    with contextlib.suppress(RuntimeError):  # JAX has started already
        jax.config.update("jax_num_cpu_devices", count)


def devices_for(run: Train, members: int, cores: int, memory: int) -> int:
    """One for each core and member, fewer where each one's copy of the weights would take much of
    the host's memory, and as many as divide a batch, which a mesh asks of its data axis."""
    arrays = weights.abstract(run.backbone.configure(read_config(run.backbone.name)))[1]
    size = sum(4 * math.prod(variable.shape) for _, variable in nnx.to_flat_state(arrays))
    count = min(cores, members, max(1, int(SHARE * memory / size)))
    while run.data.batch_size % count:
        count -= 1
    return count
