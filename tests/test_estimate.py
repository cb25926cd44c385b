"""The doctor's estimate of a step's memory, against what XLA allocates for the real step."""

import runpy
from pathlib import Path

import jax
import pytest

from prompt_jax.fit import estimate

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "memory_estimate.py"


@pytest.fixture(scope="module")
def temporaries():
    return runpy.run_path(str(BENCHMARK))["temporaries"]


@pytest.mark.parametrize(
    "remat",
    [
        "full",
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("dots", marks=pytest.mark.slow),
    ],
)
def test_activations_are_within_a_third_of_what_xla_allocates(temporaries, remat):
    device = jax.devices()[0]
    xla, ours = temporaries("nano", 16, 64, 32, remat, "float32", device)
    assert 2 / 3 < ours / xla < 4 / 3


def test_bfloat16_weights_are_widened_by_cpus_alone():
    assert estimate.widened_bytes(100, "bfloat16", "cpu") == 200
    assert estimate.widened_bytes(100, "float32", "cpu") == 0
    assert estimate.widened_bytes(100, "bfloat16", "tpu") == 0
