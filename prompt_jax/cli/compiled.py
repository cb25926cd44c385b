"""What XLA has compiled stays on this machine, so that the next start finds it.

JAX keys an entry by the program, the compiler and its options. Machines that share a home folder
may have different processors, so that each kind has a folder of its own.
"""

import contextlib
import hashlib
import os
import platform
import time
from pathlib import Path

from prompt_jax.paths import user_cache

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "0.1"  # that a program took to compile
UNUSED_DAYS = 30  # after which an entry is deleted


def use_cache() -> None:
    """JAX's cache of compiled programs in the user's cache folder, for this process and those that
    it starts; as JAX_COMPILATION_CACHE_DIR says where it is set (empty: none). JAX has not been
    imported yet."""
    if VARIABLE in os.environ:
        return
    folder = user_cache() / "compiled" / processor()
    with contextlib.suppress(OSError, RuntimeError):  # no home, or no right to write: no cache
        folder.mkdir(parents=True, exist_ok=True)
        forget_unused(folder)
        os.environ[VARIABLE] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", LEAST_SECONDS)


def processor() -> str:
    """A name for what XLA may use of this machine's processor."""
    facts = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        facts += "".join(sorted({line for line in lines if line.startswith(wanted)}))
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def forget_unused(folder: Path) -> None:
    """Deletes entries that were neither written nor read for UNUSED_DAYS."""
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for entry in folder.iterdir():
        facts = entry.stat()
        if max(facts.st_atime, facts.st_mtime) < oldest:
            entry.unlink(missing_ok=True)
