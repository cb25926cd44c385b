"""How the processes of one run find each other, and what they say when one is lost.

Process 0 listens at the coordinator's address until all others have called; then JAX's own service
takes that port. The calls stay open for as long as the run lasts. A process that dies closes its
line, process 0 tells the others, and each ends with one line of text, where JAX alone would wait
for minutes or abort with a stack trace. So they do when a process is there but gives no sign of
life any more. launch/README.md says how processes are started.
"""

import contextlib
import ctypes
import hashlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prompt_jax.errors import Preempted, RunError, UserError
from prompt_jax.hosts import jax_service
from prompt_jax.hosts.calls import hang_up, hear, keep_alive, open_listener, say

START_TIMEOUT = 300  # seconds until a start without all processes is given up
BEAT = 10  # seconds between signs of life
HANGING = 60  # seconds without one after which a process that is still there counts as lost
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "JOB_COMPLETION_INDEX")


@dataclass(frozen=True)
class Place:
    """Where a process stands: the address of process 0, how many there are, which one this is.

    `cluster`: the name of JAX's detection that said so; "deactivate" where flags did.
    """

    coordinator: str
    processes: int
    process: int
    cluster: str = "deactivate"

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environ: Mapping[str, str] = os.environ,
) -> Place | None:
    """The place of this process: from flags, else as SLURM, Open MPI or a TPU VM tell; None alone.

    Raises:
      UserError: flags that are incomplete or wrong.
    """
    if (coordinator, processes, process) == (None, None, None):
        return _detected(environ)
    if process is None:
        ranks = [name for name in RANKS if name in environ]
        process = _number(environ, ranks[0]) if ranks else None
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UserError(
            "--coordinator, --processes, --process", "they belong together", f"add {missing}"
        )
    assert coordinator is not None and processes is not None and process is not None
    if not 0 <= process < processes:
        raise UserError(f"--process={process}", f"with --processes={processes} it is 0 to N - 1")
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator}", remedy="write HOST:PORT of process 0")
    return Place(coordinator, processes, process) if processes > 1 else None


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A count or rank that a scheduler has set; UserError where it has not, or set no number."""
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        problem = "is not set" if text is None else f"{text!r} is no whole number"
        remedy = "give --coordinator, --processes and --process, or unset the scheduler's variables"
        raise UserError(name, problem, remedy)
    return int(text)


def _detected(environ: Mapping[str, str]) -> Place | None:
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if "SLURM_STEP_NODELIST" in environ and _number(environ, "SLURM_NTASKS", 1) > 1:
        for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID"):  # what JAX reads
            _number(environ, name)
        return _ask_jax("slurm")
    if _number(environ, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environ:
            size = environ["OMPI_COMM_WORLD_SIZE"]
            raise UserError(
                "Open MPI",
                "this one does not tell where process 0 is",
                f"add --coordinator=HOST:PORT --processes={size}",
            )
        return _ask_jax("ompi")
    if running_in_cloud_tpu_vm:
        return _ask_jax("gketpu" if "TPU_WORKER_HOSTNAMES" in environ else "gcetpu")
    return None


def _ask_jax(cluster: str) -> Place | None:
    from jax._src.clusters import ClusterEnv

    none = (None, None, None, None)
    found = ClusterEnv.auto_detect_unset_distributed_params(*none, cluster, START_TIMEOUT)
    coordinator, processes, process, _ = found
    if coordinator is None or processes is None or process is None or processes == 1:
        return None
    return Place(coordinator, processes, process, cluster)


@contextlib.contextmanager
def joined(place: Place | None, timeout: int, about: str = "") -> Iterator[None]:
    """The run of several processes within the block; nothing is done for one alone.

    All have to be there within `timeout` seconds, with the same `about` (what they are to run).
    At the end they wait for each other; so do they after `Preempted`. Any other error reaches
    the others when `ended` is called with it.

    Raises:
      RunError: processes are missing; it names them.
      UserError: two have one number, or they were started differently.
    """
    global _line
    if place is None:
        yield
        return
    line = _Line(place, hashlib.sha256(about.encode()).hexdigest())
    line.call(time.monotonic() + timeout, timeout)
    _line = line
    line.watch()
    _listen_before_abort()
    _keep_stdout()
    jax_service.start(place.coordinator, place.processes, place.process, place.cluster)
    try:
        yield
    except Preempted:
        line.finish()
        raise
    line.finish()


def _keep_stdout() -> None:
    """Standard output is for reports: what gloo prints there goes to standard error instead."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def _listen_before_abort() -> None:
    """Has `listen` called where C++ aborts this process.

    Where a process is lost, gloo's calls fail device by device, so that those of one process may
    meet in different collectives; gloo ends the process then, often before it has heard who is
    lost.
    """
    global _at_abort
    _at_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: listen())
    ctypes.CDLL(None).signal(signal.SIGABRT, _at_abort)


_at_abort: Any = None  # as long as this process lives, as C may call it
_line: "_Line | None" = None


def several() -> bool:
    """Whether this process shares its run with others."""
    return _line is not None


def number() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return (0, 1) if _line is None else (_line.place.process, _line.place.processes)


def writes() -> bool:
    """Whether this process writes files and reports: one of a run does."""
    return _line is None or _line.place.process == 0


def check_same(what: str, value: int) -> None:
    """Refuses a run whose processes see different things, such as folders of their own."""
    if _line is None:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    seen = multihost_utils.process_allgather(np.int32(value)).tolist()
    if len(set(seen)) > 1:
        raise UserError(f"{what} by process", seen, "give all the same files and one --model_dir")


def listen() -> None:
    """Called at an error that a lost process may be behind (a checkpoint cannot be read without
    it, say): if there is one, this process ends here, with the line about it."""
    if _line is not None and not _line.finished.is_set():
        time.sleep(5)


def leave(code: int, message: str) -> int:
    """Called last by a process that fails: the others are told, and it ends without waiting for
    them. Returns `code` where it is alone, or where all are done."""
    if _line is not None and not _line.finished.is_set():
        _line.end(code, f"{_line.name(_line.place.process)} failed: {message}", told=True)
    return code


class _Line:
    """The open calls: at process 0 one to each other process, elsewhere the one to process 0."""

    def __init__(self, place: Place, about: str):
        self.place, self.about = place, about
        self.names = {place.process: socket.gethostname()}
        self.calls: dict[int, socket.socket] = {}
        self.files: dict[int, Any] = {}  # the same calls, to be read line by line
        self.heard: dict[int, float] = {}  # when each was heard last
        self.finished = threading.Event()  # all processes are done
        self.done: set[int] = set()  # processes that said so
        self.ending = threading.Lock()

    def name(self, number: int) -> str:
        return f"process {number} of {self.place.processes} ({self.names[number]})"

    def call(self, deadline: float, timeout: int) -> None:
        """The roll call."""
        if self.place.process == 0:
            self._receive(deadline, timeout)
            told = ", ".join(f"{i} {name}" for i, name in sorted(self.names.items()))
            print(f"all {self.place.processes} processes answered: {told}", file=sys.stderr)
        else:
            self._reach(deadline, timeout)

    def _receive(self, deadline: float, timeout: int) -> None:
        port, most = self.place.address[1], self.place.processes
        with open_listener(port, most) as listener, selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            while len(self.calls) < self.place.processes - 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._give_up(timeout)
                for key, _ in ready.select(left):
                    if key.fileobj is listener:
                        self._answer(listener, ready)
                    else:  # nobody speaks before the roll call is over: it has hung up
                        ready.unregister(key.fileobj)
                        self.hang_up(key.data)
                        del self.names[key.data]
        for call in self.calls.values():
            say(call, {"names": self.names})

    def _answer(self, listener: socket.socket, ready: selectors.BaseSelector) -> None:
        call = listener.accept()[0]
        call.settimeout(5)
        file = call.makefile("rb")
        hello = hear(file)
        if hello is None or not {"process", "name", "asks"} <= set(hello):
            hang_up(call, file)
            return
        number, asks = hello["process"], hello["asks"]
        refused = None
        if asks != self._asks():
            differs = [k for k, v in self._asks().items() if asks.get(k) != v]
            refused = f"process {number} ({hello['name']}) was started with another {differs[0]}"
        elif number in self.names:
            refused = f"two processes are number {number}: {self.names[number]}, {hello['name']}"
        if refused is not None:
            say(call, {"end": [2, f"{refused}; start all with the same command"]})
            hang_up(call, file)
            return
        keep_alive(call)
        self.calls[number], self.files[number] = call, file
        self.names[number] = hello["name"]
        ready.register(call, selectors.EVENT_READ, number)

    def _asks(self) -> dict[str, Any]:
        from prompt_jax.version import __version__

        return {"--processes": self.place.processes, "version": __version__, "recipe": self.about}

    def _give_up(self, timeout: int) -> None:
        missing = [i for i in range(self.place.processes) if i not in self.names]
        here = ", ".join(f"{i} ({name})" for i, name in sorted(self.names.items()))
        message = (
            f"after {timeout} s these of {self.place.processes} processes are missing: "
            f"{', '.join(map(str, missing))}; here: {here}; start them with "
            f"--coordinator={self.place.coordinator}, or give a longer --start_timeout"
        )
        for call in self.calls.values():
            say(call, {"end": [1, message]})
        self.hang_up(*self.calls)
        raise RunError(message)

    def _reach(self, deadline: float, timeout: int) -> None:
        hello = {"process": self.place.process, "name": self.names[self.place.process]}
        answer = None
        while answer is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                answer = self._ask({**hello, "asks": self._asks()}, deadline)
            time.sleep(0 if answer else 0.2)
        if answer is None:
            raise RunError(
                f"process 0 did not answer at {self.place.coordinator} within {timeout} s: start "
                "it, or look at its address and at the firewall"
            )
        if "end" in answer:
            self.hang_up(0)
            code, message = answer["end"]
            raise (UserError if code == 2 else RunError)(message)
        self.names = {int(i): name for i, name in answer["names"].items()}
        keep_alive(self.calls[0])

    def _ask(self, hello: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        call = socket.create_connection(self.place.address, 5)
        file = call.makefile("rb")
        self.calls, self.files = {0: call}, {0: file}
        say(call, hello)
        call.settimeout(max(deadline - time.monotonic(), 0) + 10)  # process 0 gives up first
        answer = hear(file)
        if answer is None:
            self.hang_up(0)
        return answer

    def watch(self) -> None:
        self.heard = dict.fromkeys(self.calls, time.monotonic())
        for number, file in self.files.items():
            threading.Thread(target=self._listen, args=(number, file), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        """Gives signs of life, and looks for those of the others."""
        before = time.monotonic()
        while not self.finished.wait(BEAT):
            for call in self.calls.values():
                with contextlib.suppress(OSError):  # `_listen` hears that it is closed
                    say(call, {"beat": self.place.process})
            now = time.monotonic()
            if now - before > 2 * BEAT:  # this process slept itself
                self.heard = dict.fromkeys(self.heard, now)
            before = now
            for number, heard in self.heard.items():
                if now - heard > HANGING and number not in self.done:
                    name = self.name(number)
                    self.end(1, f"{name} was stopped or hangs: no sign of life for {HANGING} s")

    def _listen(self, number: int, file: Any) -> None:
        while not self.finished.is_set():
            heard = hear(file)
            self.heard[number] = time.monotonic()
            if heard is None:
                self._lost(number)
                return
            if "end" in heard:
                self.end(*heard["end"])
            if "done" in heard:
                self._done(number)

    def _lost(self, number: int) -> None:
        if self.finished.is_set() or number in self.done:
            return
        self.end(1, f"{self.name(number)} was killed or cannot be reached any more")

    def _done(self, number: int) -> None:
        self.done.add(number)
        if self.place.process or len(self.done) == self.place.processes:
            self.finished.set()

    def finish(self) -> None:
        """Waits until every process is done, then leaves JAX's service in good order."""
        import jax

        if self.place.process == 0:
            self._done(0)
            self.finished.wait()
        for call in self.calls.values():
            say(call, {"done": self.place.process})
        self.finished.wait()
        jax.distributed.shutdown()

    def hang_up(self, *numbers: int) -> None:
        for number in numbers:
            hang_up(self.calls.pop(number), self.files.pop(number))

    def end(self, code: int, message: str, told: bool = False) -> None:
        """Tells the others why, and ends this process; whoever comes first has the word."""
        self.ending.acquire()
        if not told:
            print(
                f"prompt-jax: error: {message}; process {self.place.process} stops as well: run "
                "the same command again, it goes on from the last checkpoint",
                file=sys.stderr,
            )
        for call in self.calls.values():
            with contextlib.suppress(OSError):
                say(call, {"end": [code, message]})
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
