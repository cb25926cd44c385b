"""How often JAX compiles while a test runs."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax

COMPILING = re.compile(r"Compiling (?:jit\()?(\w+)")


class _Names(logging.Handler):
    def __init__(self, names: list[str]):
        super().__init__()
        self.names = names

    def emit(self, record: logging.LogRecord) -> None:
        if found := COMPILING.match(record.getMessage()):
            self.names.append(found[1])


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the functions that are compiled within the block, read from JAX's log.

    What comes from the cache on disk counts too, and so do other threads, which `jax.log_compiles`
    leaves out; a call of what this process compiled does not.
    """
    names: list[str] = []
    handler, logger = _Names(names), logging.getLogger("jax")
    logger.addHandler(handler)
    before = jax.config.jax_log_compiles
    jax.config.update("jax_log_compiles", True)
    try:
        yield names
    finally:
        jax.config.update("jax_log_compiles", before)
        logger.removeHandler(handler)
