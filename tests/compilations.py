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

    What comes from the cache on disk counts too; a call of what this process compiled does not.
    """
    names: list[str] = []
    handler, logger = _Names(names), logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(handler)
