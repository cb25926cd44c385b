"""The cores of a CPU as devices for the members of a farm."""

import os
import subprocess
import sys

import pytest

from prompt_jax.recipe import config
from prompt_jax.run.cores import devices_for

SCRIPT = """
import sys
import jax
from prompt_jax.recipe import config
from prompt_jax.run import cores
cores.os.sched_getaffinity = lambda _: range(4)
run = config.load("Train", [sys.argv[1]], sys.argv[2:]).root
cores.spread(run, 8)
print(jax.device_count())
"""


@pytest.mark.parametrize(
    "members, cores, memory, expected",
    [
        (8, 4, 2**34, 4),
        (2, 4, 2**34, 2),
        (3, 4, 2**34, 2),  # what divides a batch of 8
        (8, 1, 2**34, 1),
        (8, 4, 2**10, 1),  # copies of the weights would take too much
    ],
)
def test_there_are_as_many_devices_as_serve(tiny, members, cores, memory, expected):
    run = config.load("Train", [f"{tiny}/run.gin"], []).root
    assert run.data.batch_size == 8
    assert devices_for(run, members, cores, memory) == expected


@pytest.mark.parametrize(
    "bindings, flags, expected",
    [
        ([], {}, "4"),
        (["Train.mesh=@MeshShape()", "MeshShape.data=1"], {"JAX_NUM_CPU_DEVICES": "1"}, "1"),
    ],
)
def test_they_are_made_before_jax_starts_unless_somebody_has_said_how_many(
    tiny, bindings, flags, expected
):
    command = [sys.executable, "-c", SCRIPT, f"{tiny}/run.gin", *bindings]
    environment = {**os.environ, "XLA_FLAGS": "", **flags}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]
