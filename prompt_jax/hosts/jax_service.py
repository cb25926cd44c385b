"""JAX's own service for the processes of a run, kept from aborting them.

JAX runs it within process 0. Where that is killed, the clients of all others abort with a stack
trace, often before the call of `hosts` has said who was lost. So it runs beside process 0, in a
process that needs nothing but jaxlib and outlives it by LINGER seconds.
"""

import subprocess
import sys
from typing import Any
from unittest import mock

from prompt_jax.errors import RunError
from prompt_jax.hosts.calls import SILENCE

HANGING = 100  # seconds without a sign of life; `hosts` comes first, and knows who it is
LINGER = 10  # seconds in which every process can say its line and end
SERVE = f"""
import sys, time
from jaxlib import _jax
address, processes, heartbeat, shutdown = sys.argv[1], *map(int, sys.argv[2:])
service = _jax.get_distributed_runtime_service(
    address, processes, heartbeat_timeout=heartbeat, shutdown_timeout=shutdown)
print("ready", flush=True)
if not sys.stdin.read():
    time.sleep({LINGER})
else:
    service.shutdown()
"""


class Service:
    """In place of JAX's object of the same use: starts the process, and stops it in good order."""

    def __init__(self, address: str, processes: int, heartbeat_timeout: int, shutdown_timeout: int):
        numbers = (processes, heartbeat_timeout, shutdown_timeout)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, address, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # signals to the group of process 0 are not for it
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RunError(f"JAX's service cannot listen at {address}: give another --coordinator")

    def shutdown(self) -> None:
        self.process.communicate(b"done")


def _service(
    address: str, processes: int, *, heartbeat_timeout: int, shutdown_timeout: int, recoverable: Any
) -> Service:
    return Service(address, processes, heartbeat_timeout, shutdown_timeout)


def start(coordinator: str, processes: int, process: int, cluster: str) -> None:
    """Joins the service; process 0 starts it."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with mock.patch("jaxlib._jax.get_distributed_runtime_service", _service):
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=cluster,
            heartbeat_timeout_seconds=HANGING,
            shutdown_timeout_seconds=SILENCE,
        )
