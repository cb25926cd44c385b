"""The processes of one run: how they meet, who writes, and how they stop."""

from prompt_jax.hosts.meet import (
    START_TIMEOUT,
    check_same,
    find,
    joined,
    leave,
    number,
    several,
    writes,
)
from prompt_jax.hosts.watch import watched

__all__ = [
    "START_TIMEOUT",
    "check_same",
    "find",
    "joined",
    "leave",
    "number",
    "several",
    "watched",
    "writes",
]
