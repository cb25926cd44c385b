"""SeqIO registrations: text-to-text tasks by name. `prompt_jax.tasks.text` finds and reads them."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Drops what C++ writes to standard error; Python's exceptions come through."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


with _quiet_start():  # TensorFlow tells every start what it could have run on
    import tensorflow as _tensorflow  # noqa: F401
