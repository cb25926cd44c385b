"""The parent of a process among others: it says in one line why JAX ended that."""

import os
import re
import signal
import sys
import tempfile
import threading
from subprocess import PIPE, Popen

LOG = "PROMPT_JAX_CHILD_LOG"  # set for the child
# The child has a process group of its own, so that these come to it once, from the parent.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LOST = (
    r"heartbeats\):\n((?:\S*\d\n)+)|first task at the barrier: (\S*\d)\."
    r"|(Failed to send RPC|Deadline Exceeded\s+RPC: \S+/Heartbeat)"
)


def watched() -> None:
    """Returns in the child, which is this command run again; the parent exits as the child did."""
    if LOG not in os.environ:
        sys.exit(_watch())
    log = os.open(os.environ.pop(LOG), os.O_WRONLY | os.O_APPEND)
    sys.stdout, sys.stderr = (open(os.dup(n), "w", 1, encoding="utf-8") for n in (1, 2))  # noqa: SIM115
    os.dup2(log, 1)  # where C++ writes
    os.dup2(log, 2)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()


def _watch() -> int:
    with tempfile.NamedTemporaryFile(prefix="prompt-jax-", suffix=".log", delete=False) as log:
        os.environ[LOG] = log.name
        child = Popen([sys.executable, *sys.orig_argv[1:]], stdin=PIPE, process_group=0)
        for number in SIGNALS:
            signal.signal(number, lambda number, _: child.send_signal(number))
        code, text = child.wait(), log.read().decode(errors="replace")
    if code >= 0:  # it has said itself why
        os.unlink(log.name)
        return code
    why = reason(text) or f"this process was ended by {signal.Signals(-code).name}"
    print(f"prompt-jax: error: {why} (log: {log.name})", file=sys.stderr)
    return 1


def reason(log: str) -> str:
    """What JAX's error in a log means, in one line; "" without one."""
    if match := re.search(LOST, log):
        lost = ", ".join(re.findall(r"(\d+)$", match[1] or match[2] or "0", re.MULTILINE))
        why = f"process {lost} failed, was killed or stopped, or cannot be reached, so this one "
        return why + "stops: run the same command again, it goes on from the last checkpoint"
    if "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination" in log:
        why = "the processes did not all meet in time: start those that are missing, look at "
        return why + "--coordinator and the firewall, or give a longer --start_timeout"
    return next(iter(re.findall(r"absl::Status: (.*)", log)), "")
