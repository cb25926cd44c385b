"""What a path is, before anything is read from it; where this user's caches are."""

import os
from pathlib import Path


def is_local(path) -> bool:
    return "://" not in str(path)


def user_cache() -> Path:
    """What the program remembers for this user; RuntimeError where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prompt_jax"
