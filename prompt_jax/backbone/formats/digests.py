"""Digests of large backbones, remembered per user: hashing 40 GB again at every start is a waste.

What is remembered is keyed by the backbone's string and by path, size and time of change of every
file in its folder. Buckets say no such thing of their files, so that those are hashed every time.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from prompt_jax.paths import user_cache

KIND = "finite"  # what is remembered was looked through for NaN and infinity
LEAST = 64 << 20  # bytes: a smaller folder is hashed in no time


def cached_digest(name: str, folder: str | None, compute: Callable[[], str]) -> str:
    """The digest of the backbone `name`, whose files are in `folder` (None: nothing local)."""
    facts = [] if folder is None else _files(Path(folder))
    if sum(size for _, size, _ in facts) < LEAST:
        return compute()
    key = hashlib.sha256(json.dumps([KIND, name, facts]).encode()).hexdigest()
    path = user_cache() / "digests" / key
    try:
        digest = path.read_text()
    except OSError:
        digest = ""
    if len(digest) == 64 and set(digest) <= set("0123456789abcdef"):
        return digest
    total = compute()
    with contextlib.suppress(OSError):  # a home that cannot be written: hashed again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(total)
        partial.rename(path)
    return total


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Path, bytes and nanoseconds of the last change of every file, links followed."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        facts = path.stat()
        files.append((str(path.resolve()), facts.st_size, facts.st_mtime_ns))
    return files
