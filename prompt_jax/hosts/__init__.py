"""The processes of one run: how they meet, who writes, and how they stop."""

from prompt_jax.hosts.meet import (
    START_TIMEOUT,
    check_same,
    find,
    joined,
    leave,
    listen,
    number,
    several,
    writes,
)

__all__ = [
    "START_TIMEOUT",
    "check_same",
    "find",
    "joined",
    "leave",
    "listen",
    "number",
    "several",
    "writes",
]
