"""Processes find each other, name who is missing, and end together with one line.

The calls are made by threads of this process; whole runs of several processes are rehearsed in
test_rehearse.py.
"""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from prompt_jax import hosts
from prompt_jax.cli import main as cli
from prompt_jax.errors import RunError, UserError
from prompt_jax.hosts import meet
from prompt_jax.hosts.meet import Place, _Line, find


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def call(places: list[Place], timeout: float = 5, about: list[str] | None = None) -> list:
    """What the roll call gives every process: its names of all, or the error."""
    found: list = [None] * len(places)
    barrier = threading.Barrier(len(places))

    def one(n: int):
        line = _Line(places[n], about[n] if about else "recipe")
        try:
            line.call(time.monotonic() + timeout, int(timeout))
            found[n] = line.names
            barrier.wait(timeout + 5)
            line.hang_up(*line.calls)
        except (UserError, RunError) as error:
            found[n] = error
            barrier.abort()
        except threading.BrokenBarrierError:
            line.hang_up(*line.calls)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def places(processes: int, numbers) -> list[Place]:
    address = f"127.0.0.1:{free_port()}"
    return [Place(address, processes, number) for number in numbers]


def test_all_answer(capsys):
    found = call(places(3, [2, 0, 1]))
    assert found == [dict.fromkeys(range(3), socket.gethostname())] * 3
    assert capsys.readouterr().err.startswith("all 3 processes answered: 0 ")


def test_missing_processes_are_named_to_all():
    first, third = call(places(5, [0, 2]), timeout=1)
    for error in (first, third):
        assert type(error) is RunError
        assert "after 1 s these of 5 processes are missing: 1, 3, 4; here: 0 (" in str(error)
        assert "\n" not in str(error)


def test_a_coordinator_that_is_not_there():
    (error,) = call(places(2, [1]), timeout=1)
    assert "process 0 did not answer at 127.0.0.1:" in str(error)


def test_two_with_one_number_are_refused():
    found = call(places(3, [0, 1, 1]), timeout=2)
    refused = [str(error) for error in found if type(error) is UserError]
    assert len(refused) == 1 and "two processes are number 1" in refused[0]


def test_different_recipes_are_refused():
    found = call(places(2, [0, 1]), timeout=2, about=["a", "b"])
    assert type(found[1]) is UserError
    assert "was started with another recipe; start all with the same command" in str(found[1])


def test_a_stranger_at_the_port_is_ignored():
    two = places(2, [0, 1])
    found: list = []
    thread = threading.Thread(target=lambda: found.extend(call(two[:1], timeout=20)))
    thread.start()
    for _ in range(100):
        try:
            with socket.create_connection(two[0].address) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except OSError:
            time.sleep(0.05)
    assert call(two[1:]) == [dict.fromkeys(range(2), socket.gethostname())]
    thread.join()
    assert found == [dict.fromkeys(range(2), socket.gethostname())]


# Where a place comes from

SLURM = {
    "SLURM_JOB_ID": "4096", "SLURM_STEP_NODELIST": "node[07-10]", "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
}  # fmt: skip
OMPI = {
    "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        (SLURM, Place("node07:61440", 4, 2, "slurm")),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        (OMPI, Place("10.96.0.1:63377", 3, 1, "ompi")),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, None),
    ],
)
def test_clusters_are_detected(environ, place, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # JAX's own detection reads os.environ
    found = find(None, None, None, environ)
    if place is not None and place.cluster == "ompi":
        assert found is not None
        assert found.coordinator.startswith("10.96.0.1:")
        place = Place(found.coordinator, 3, 1, "ompi")
    assert found == place


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
        ((None, None, None), {"OMPI_COMM_WORLD_SIZE": "4"}, "add --coordinator=HOST:PORT"),
    ],
)
def test_incomplete_places(given, environ, part):
    with pytest.raises(UserError, match=part):
        find(*given, environ)


def test_one_process_is_alone():
    assert find("h:1", 1, 0, {}) is None
    assert hosts.writes() and not hosts.several() and hosts.number() == (0, 1)
    assert hosts.leave(1, "an error") == 1


@pytest.mark.parametrize(
    ("error", "waits"), [(RunError, True), (OSError, True), (UserError, False)]
)
def test_what_a_lost_process_may_be_behind_waits_for_word_of_it(
    error: type[Exception], waits, monkeypatch
):
    """A checkpoint that "cannot be read" may only lack the process that was killed meanwhile."""
    waited = []
    monkeypatch.setattr(hosts, "listen", lambda: waited.append(True))

    def fails(arguments):
        raise error("cannot be read")

    monkeypatch.setattr(cli, "_run", fails)
    assert cli.main(["train"]) == (2 if error is UserError else 1)
    assert bool(waited) == waits


@pytest.fixture
def met(monkeypatch):
    """Two processes that have met, with quick signs of life, and what they end with."""
    monkeypatch.setattr(meet, "BEAT", 0.1)
    monkeypatch.setattr(meet, "HANGING", 1)
    ended: list = []

    def end(line, code, message, told=False):
        ended.append((line.place.process, code, message))
        line.finished.set()

    monkeypatch.setattr(_Line, "end", end)
    lines = [_Line(place, "recipe") for place in places(2, [0, 1])]
    deadline = time.monotonic() + 20
    calls = [threading.Thread(target=line.call, args=(deadline, 20)) for line in lines]
    for thread in calls:
        thread.start()
    for thread in calls:
        thread.join()
    yield lines, ended
    before = threading.enumerate()
    for line in lines:
        line.finished.set()
        for call in line.calls.values():
            call.shutdown(socket.SHUT_RDWR)
    for thread in before:
        if thread.name.endswith(("(_listen)", "(_beat)")):
            thread.join()
    for line in lines:
        line.hang_up(*list(line.calls))


@pytest.mark.parametrize("silent", [0, 1])
def test_a_process_that_is_there_but_says_nothing_is_given_up(silent, met):
    lines, ended = met
    lines[1 - silent].watch()
    assert lines[1 - silent].finished.wait(20)
    name = f"process {silent} of 2 ({socket.gethostname()})"
    message = f"{name} was stopped or hangs: no sign of life for 1 s"
    assert ended == [(1 - silent, 1, message)]


def test_signs_of_life_keep_a_quiet_run_going(met):
    lines, ended = met
    for line in lines:
        line.watch()
    time.sleep(2.5)
    assert ended == []


ABORT = """
import os, threading, time
from prompt_jax.hosts import meet
line = meet._line = meet._Line(meet.Place("localhost:1", 2, 1), "")
line.names[0] = "far"
meet._listen_before_abort()
threading.Thread(target=lambda: (time.sleep(0.3), line._lost(0))).start()
os.abort()
"""


def test_an_abort_waits_for_word_of_a_lost_process():
    ended = subprocess.run([sys.executable, "-c", ABORT], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "process 0 of 2 (far) was killed or cannot be reached any more" in ended.stderr


def test_an_abort_by_itself_stays_one():
    told = ABORT.replace("threading.Thread", "meet.time.sleep = print; threading.Thread")
    told = told.replace("line._lost(0)", "0")
    ended = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGABRT
