"""What every test runs under: eight virtual CPU devices, strict JAX, no network.

The settings are environment variables so that processes started by a test inherit them.
"""

import os
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# What was compiled once is kept: most of the suite's time is compiling. Without the folder, the
# same tests pass more slowly.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Small programs run once or twice, so LLVM's passes would cost more than they save. `make fit` and
# `make nightly` set PROMPT_JAX_OPTIMIZED=1 and compile as users do.
QUICKLY_COMPILED = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    # XLA ends the process for a flag that it does not know, and newer ones do not know this.
    *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []),
)
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(() if os.environ.get("PROMPT_JAX_OPTIMIZED") == "1" else QUICKLY_COMPILED),
        *os.environ.get("XLA_FLAGS", "").split(),
        "--xla_force_host_platform_device_count=8",
    ]
)
# An implicit [d] + [b, d] is an error. Strict dtype promotion would be one too, but optax's AdamW
# mixes a float with its int32 count.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

# Fixtures that files share.
pytest_plugins = ("tiny", "kinds", "spot_library", "launching")

SHARED_UNSET = "PROMPT_JAX_SHARED is not set"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of large test files. Without it the test is skipped, or fails where required."""
    if "PROMPT_JAX_SHARED" in os.environ:
        folder = Path(os.environ["PROMPT_JAX_SHARED"])
        if not folder.is_dir():
            pytest.fail(f"PROMPT_JAX_SHARED={folder} is not a directory")
        return folder
    if os.environ.get("PROMPT_JAX_REQUIRE_SHARED") == "1":
        pytest.fail(f"{SHARED_UNSET} although PROMPT_JAX_REQUIRE_SHARED=1")
    pytest.skip(SHARED_UNSET)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The small arrays that T5X and transformers wrote, kept in the repository."""
    return Path(__file__).parent / "golden"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was left out for lack of the large files, so that it never passes unseen."""
    reports = terminalreporter.stats.get("skipped", [])
    skipped = [report for report in reports if SHARED_UNSET in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests not run: {SHARED_UNSET}", yellow=True)
