"""How the processes of one run find each other by `jax.distributed`; see launch/README.md."""

import contextlib
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prompt_jax.errors import Preempted, UserError
from prompt_jax.hosts import chipless
from prompt_jax.version import __version__

START_TIMEOUT = 300  # seconds until a start without all processes is given up
HEARTBEAT = 20  # seconds without a sign of life after which JAX gives up a process
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "JOB_COMPLETION_INDEX")
FLAGS = "give --coordinator=HOST:PORT with a free port of process 0, --processes=N and --process=I"
_here = (0, 1)


class Place(NamedTuple):
    """Where process 0 is, how many there are, which one this is; JAX finds out what is None."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def find(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environ: Mapping[str, str] = os.environ,
) -> Place | None:
    """The place of this process, by flags or by JAX; None alone. UserError: one is wrong."""
    if (coordinator, processes, process) == (None, None, None):
        if "SLURM_STEP_NODELIST" in environ and _number(environ, "SLURM_NTASKS", "1") > 1:
            _number(environ, "SLURM_PROCID")
            return Place()
        mpi = _number(environ, "OMPI_COMM_WORLD_SIZE", "1") > 1
        return Place() if mpi or chipless.has_tpu() else None
    if process is None and (ranks := [name for name in RANKS if name in environ]):
        process = _number(environ, ranks[0])
    if coordinator is None or processes is None or process is None:
        given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
        add = f"add {[name for name, value in given.items() if value is None]}"
        raise UserError(", ".join(given), "they belong together", add)
    if not 0 <= process < processes:
        raise UserError(f"--process={process}", f"with --processes={processes} it is 0 to N - 1")
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator}", remedy="write HOST:PORT of process 0")
    return Place(coordinator, processes, process) if processes > 1 else None


def _number(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name, default)
    if not text.isdecimal():
        problem = f"{text!r} is not a whole number" if name in environ else "is not set"
        raise UserError(name, problem, FLAGS)
    return int(text)


@contextlib.contextmanager
def joined(place: Place | None, timeout: int, about: str = "") -> Iterator[None]:
    """The run of several processes within the block; nothing is done for one alone.

    All must be there within `timeout` seconds with one `about` (what they run); they wait for each
    other at the end and after `Preempted`. At errors but a UserError JAX may end this process.
    """
    global _here
    if place is None:
        yield
        return
    import jax

    method = "deactivate" if place.coordinator else None  # of detection
    try:
        jax.distributed.initialize(*place, None, method, timeout, HEARTBEAT, HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        raise UserError("processes", f"JAX does not join them: {error}", FLAGS) from error
    _here = (jax.process_index(), jax.process_count())
    try:
        _roll_call(f"{place.processes} {about}")
        yield
    except Preempted:
        gather(0)
        jax.distributed.shutdown()
        raise
    except Exception as error:
        time.sleep(0 if isinstance(error, UserError) else HEARTBEAT + 5)  # until JAX knows who
        raise
    gather(0)  # waits for the others, however long one of them still writes
    jax.distributed.shutdown()


def _roll_call(about: str) -> None:
    """Process 0 says who is there; UserError in all where some were started differently."""
    run = hashlib.sha256(f"{__version__} {about}".encode()).hexdigest()
    rows = gather([*f"{run} {socket.gethostname()}".encode().ljust(512)])
    runs, hosts = zip(*(bytes(row.tolist()).decode().split() for row in rows), strict=True)
    names = [f"{number} {host}" for number, host in enumerate(hosts)]
    if others := [names[i] for i, one in enumerate(runs) if one != runs[0]]:
        problem = "another recipe, version or --processes than process 0's"
        raise UserError(f"process {', '.join(others)}", problem, "give all the same command")
    if writes():
        print(f"all {len(names)} processes answered: {', '.join(names)}", file=sys.stderr)


def gather(value: Any) -> Any:
    import numpy as np
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(value, np.int32))


def several() -> bool:
    """Whether this process shares its run with others."""
    return _here[1] > 1


def number() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return _here


def writes() -> bool:
    """Whether this process writes files and reports: one of a run does."""
    return _here[0] == 0


def check_same(what: str, value: int) -> None:
    """Refuses a run whose processes see different things, such as folders of their own."""
    seen = gather(value).tolist() if several() else [value]
    if len(set(seen)) > 1:
        raise UserError(
            f"{what} by process", str(seen), "give all the same files and one --model_dir"
        )


def leave(code: int) -> int:
    """Ends a process that failed among others, without waiting for them; else returns `code`."""
    if several() and code != 75:  # preempted ones have left JAX's service already
        time.sleep(HEARTBEAT / 4 if writes() else 0)  # it is here, and others may fail alike
        os._exit(code)
    return code
