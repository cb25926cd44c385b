"""Processes find each other, end with one line, and their parents say why JAX ended them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prompt_jax import hosts
from prompt_jax.errors import UserError
from prompt_jax.hosts import meet
from prompt_jax.hosts.meet import Place, find
from prompt_jax.hosts.watch import reason

MEET = """
import os, sys, time
from prompt_jax import hosts
from prompt_jax.cli import main
from prompt_jax.hosts import meet

meet.HEARTBEAT, (port, count, number, about, body) = 4, sys.argv[1:]
place = hosts.find(f"127.0.0.1:{port}", int(count), int(number))
hosts.watched()

def run(arguments):
    with hosts.joined(place, 60 if body else 1, about):
        print(hosts.number(), hosts.several(), hosts.writes())
        exec(body)

main.run_command = run
sys.exit(main.main([]))
"""


@pytest.fixture
def start(tmp_path: Path):
    """Starts MEET, as (number, about, body); processes that a failed test leaves are killed."""
    (tmp_path / "meet.py").write_text(MEET)
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path), "XLA_FLAGS": ""}
    begun: list[subprocess.Popen] = []

    def processes(count: int, *each: tuple[int, str, str], port: int = 0) -> list[subprocess.Popen]:
        if not port:
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
        for one in each:
            words = [sys.executable, str(tmp_path / "meet.py"), str(port), str(count)]
            begun.append(
                subprocess.Popen(
                    [*words, *map(str, one)],
                    env=environ,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        return begun

    yield processes
    for process in begun:
        process.kill()
        process.communicate()


def ends(started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and error of each."""
    out = [process.communicate(timeout=120) for process in started]
    return [(p.returncode, *texts) for p, texts in zip(started, out, strict=True)]


def test_all_answer(start, tmp_path):
    first, second = ends(start(2, (0, "recipe", "pass"), (1, "recipe", "pass")))
    name = socket.gethostname()
    assert first == (0, "(0, 2) True True\n", f"all 2 processes answered: 0 {name}, 1 {name}\n")
    assert second == (0, "(1, 2) True False\n", "")
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.slow
def test_a_start_without_all_processes_is_given_up_in_one_line(start):
    for code, out, err in ends(start(3, (0, "recipe", ""), (2, "recipe", ""))):
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "error: the processes did not all meet in time: start those that are" in err


@pytest.mark.slow
def test_different_recipes_are_refused(start):
    for code, out, err in ends(start(2, (0, "a", "pass"), (1, "b", "pass"))):
        assert (code, out) == (2, "")
        assert f"process 1 {socket.gethostname()}: another recipe, version or" in err


@pytest.mark.slow
def test_different_numbers_of_processes_are_refused(start):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start(2, (0, "a", "pass"), port=port)
    for code, out, err in ends(start(3, (1, "a", "pass"), port=port)):
        assert (code, out) == (2, "")
        assert f"process 1 {socket.gethostname()}: another recipe, version or" in err


def test_a_port_that_is_taken_is_one_line(start):
    with socket.create_server(("", 0)) as server:
        started = start(2, (0, "recipe", "pass"), port=server.getsockname()[1])
        ((code, _, err),) = ends(started)
    assert err.count("\n") == 1
    if code == 1:  # JAX 0.10 sometimes crashes here by itself
        assert "error: this process was ended by SIG" in err
    else:
        assert code == 2
        assert "Failed to start RPC server; give --coordinator=HOST:PORT with a free port" in err


def test_a_process_that_fails_is_named_by_the_others_and_has_its_own_line(start):
    """Its own exit code and line; the other one waits until JAX knows who it was."""
    fails = "from prompt_jax.errors import UserError; raise UserError('x', 'is wrong')"
    first, second = ends(start(2, (0, "recipe", "meet.gather(0)"), (1, "recipe", fails)))
    assert (second[0], second[2]) == (2, "prompt-jax: error: x: is wrong\n")
    assert first[0] == 1
    assert first[2].splitlines()[1].startswith("prompt-jax: error: process 1 failed, was killed or")


@pytest.mark.slow
def test_a_process_without_the_first_one_ends_in_one_line(start):
    dies = "os.kill(os.getpid(), 9)"
    first, second = ends(start(2, (0, "recipe", dies), (1, "recipe", "meet.gather(0)")))
    assert first[0] == second[0] == 1
    assert "error: this process was ended by SIGKILL" in first[2]
    assert second[2].startswith("prompt-jax: error: process 0 failed, was killed or stopped")
    assert second[2].count("\n") == 1


# The parent

CHILD = """
import os, signal, sys, time
from prompt_jax.hosts import watch

watch.watched()
print(os.getpid(), flush=True)
os.write(1, b"C++ here\\n")
os.write(2, b"absl::Status: ABORTED: 1 unexpectedly tried to connect\\n")
print("an error", file=sys.stderr)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
exec(sys.argv[1])
"""


def watch(body: str, tmp_path: Path) -> subprocess.Popen:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", CHILD, body]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environ, stdout=pipe, stderr=pipe, text=True)


def test_a_child_ends_with_its_own_code_and_line(tmp_path):
    process = watch("sys.exit(3)", tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "an error\n")
    assert out.strip().isdecimal() and not list(tmp_path.iterdir())


def test_a_child_that_is_aborted_leaves_a_log(tmp_path):
    process = watch("os.abort()", tmp_path)
    err = process.communicate(timeout=60)[1]
    (log,) = tmp_path.iterdir()
    line = f"prompt-jax: error: ABORTED: 1 unexpectedly tried to connect (log: {log})"
    assert (process.returncode, err) == (1, f"an error\n{line}\n")
    assert log.read_text().startswith("C++ here\nabsl::Status")


def test_a_signal_reaches_the_child(tmp_path):
    process = watch("time.sleep(60)", tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    process = watch("time.sleep(60)", tmp_path)
    assert process.stdout is not None
    child = Path(f"/proc/{int(process.stdout.readline())}")
    process.kill()
    process.communicate(timeout=30)  # both have closed the pipes
    deadline = time.monotonic() + 20
    while child.exists() and "zombie" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


LATE = "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/"
BEATS = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (f"F1 client.h] absl::Status: {BEATS}1\nThe tasks have crashed.", "process 1 failed, was"),
        (f"{BEATS}1\n12\nThe tasks", "process 1, 12 failed"),
        (f"{BEATS}/job:jax_worker/replica:0/task:3\nThe tasks", "process 3 failed"),
        ("Shutdown barrier\nThe first task at the barrier: 2. Some timed out", "process 2 failed"),
        ("absl::Status: UNAVAILABLE: Failed to send RPC to coordination", "process 0 failed"),
        (f"{LATE}Heartbeat\n*** Check failure", "process 0 failed"),
        (f"{LATE}RegisterTask\n*** Check failure", "the processes did not all meet in time"),
        ("absl::Status: ABORTED: something new\nmore", "ABORTED: something new"),
        ("[Gloo] Rank 0 is connected", ""),
    ],
)
def test_what_jax_says_becomes_one_line(log, line):
    assert reason(log).startswith(line) and bool(reason(log)) == bool(line)
    assert "\n" not in reason(log)


# Where a place comes from

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[07-10]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        (SLURM, Place()),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, Place()),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, None),
    ],
)
def test_where_there_are_several_jax_is_asked_for_the_others(environ, place):
    assert find(None, None, None, environ) == place


def test_flags_win_over_what_is_detected():
    assert find("h:1", 4, 3, SLURM) == Place("h:1", 4, 3)
    assert find("h:1", 1, 0, SLURM) is None


@pytest.mark.slow
def test_where_jax_does_not_find_the_others_flags_are_asked_for():
    """Open MPI 5, which does not tell where process 0 is."""
    words = [sys.executable, "-m", "prompt_jax", "eval", "--backbone=nano", "--task=x", "--split=y"]
    environ = {**os.environ, "OMPI_COMM_WORLD_SIZE": "4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "JAX does not join them: coordinator_address" in done.stderr
    assert (
        "give --coordinator=HOST:PORT with a free port of process 0, --processes=N" in done.stderr
    )


@pytest.mark.parametrize("name", meet.RANKS)
def test_a_scheduler_gives_the_number_where_flags_give_the_rest(name):
    assert find("h:1", 4, None, {name: "3"}) == Place("h:1", 4, 3)


@pytest.mark.parametrize(
    ("given", "environ", "part"),
    [
        (("h:1", None, 0), {}, r"belong together; add \['--processes'\]"),
        (("h:1", 4, None), {}, r"add \['--process'\]"),
        (("h:1", 4, 4), {}, "--process=4: with --processes=4 it is 0 to N - 1"),
        (("h", 4, 0), {}, "--coordinator=h: write HOST:PORT"),
    ],
)
def test_incomplete_places(given, environ, part):
    with pytest.raises(UserError, match=part):
        find(*given, environ=environ)


def test_one_process_is_alone():
    assert find("h:1", 1, 0, {}) is None
    assert hosts.writes() and not hosts.several() and hosts.number() == (0, 1)
    assert hosts.leave(1) == 1
    hosts.check_same("files", 3)
