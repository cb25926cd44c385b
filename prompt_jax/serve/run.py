"""Starts a server: opens the engine, listens, warms up, and on SIGTERM ends what is open."""

import contextlib
import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from prompt_jax.errors import UserError
from prompt_jax.serve.app import Server
from prompt_jax.serve.guard import Tokens
from prompt_jax.serve.observe import Log
from prompt_jax.serve.table import NAME, NAME_REMEDY

KINDS = ("generate", "rank", "embed")
MOST_CONNECTIONS = 1024
KEEP_ALIVE = 10  # seconds that an idle connection stays open


class _Uvicorn(uvicorn.Server):
    """Tells the application when it is to end."""

    def __init__(self, config: uvicorn.Config, server: Server, log: Log):
        super().__init__(config)
        self.server, self.log = server, log

    def handle_exit(self, sig: int, frame) -> None:
        self.server.drain()
        self.log("draining", signal=signal.Signals(sig).name)
        super().handle_exit(sig, frame)


def serve(
    server: Server, host: str, port: int, *, drain: float, warm_up: Sequence[str] = ()
) -> None:
    """Serves until SIGTERM or SIGINT; requests that are open then have `drain` seconds to end.

    `warm_up`: kinds of requests whose shapes are compiled before `/readyz` says yes. Port 0 takes
    a free one; the line `listening` of the log says which.

    Raises:
      UserError: the address cannot be listened at.
    """
    log, config = server.guard.log, _config(server, drain)
    listening = _listen(host, port)
    place, chosen = listening.getsockname()[:2]
    shown = f"[{place}]" if ":" in place else place
    log("listening", url=f"http://{shown}:{chosen}")
    warming = threading.Thread(target=_warm, args=(server, log, warm_up), daemon=True)
    warming.start()
    with _ended_quietly():
        _Uvicorn(config, server, log).run(sockets=[listening])
    log("closed")


def _config(server: Server, drain: float) -> uvicorn.Config:
    return uvicorn.Config(
        server.asgi,
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(drain)),
        lifespan="on",
        http="h11",
        loop="asyncio",
        ws="none",
    )


def _warm(server: Server, log: Log, kinds: Sequence[str]) -> None:
    try:
        server.engine.warm_up(kinds)
    except Exception as error:
        if not server.guard.draining:
            log("warm_up failed", "error", error=str(error))
        return
    if not server.guard.draining:
        server.ready = True
        log("ready", prompts=len(server.engine.table))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host={host} --port={port}", str(error), "give another address"
        ) from None
    return made


@contextlib.contextmanager
def _ended_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it again: nothing is left to be done by then."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_tokens(path: str | None, flag: str) -> tuple[str, ...]:
    """The tokens of a file, one a line; UserError where there is none in it."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--{flag}={path}", f"cannot be read ({error})") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise UserError(f"--{flag}={path}", "has no token", "write one per line")
    return tokens


def tokens_of(read: str | None, admin: str | None) -> Tokens:
    return Tokens(read_tokens(read, "read_tokens"), read_tokens(admin, "admin_tokens"))


def kinds_of(names: str) -> tuple[str, ...]:
    """The kinds of requests in `generate,rank,embed`; UserError for another."""
    kinds = tuple(filter(None, names.split(",")))
    if unknown := set(kinds) - set(KINDS):
        remedy = f"give some of {','.join(KINDS)}"
        raise UserError(f"--warm_up={names}", f"{min(unknown)!r} is not a kind of request", remedy)
    return kinds


def named_prompts(values: Sequence[str]) -> dict[str, str]:
    """`NAME=DIR` of every --prompt; UserError where one is not, or a name comes twice."""
    folders: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (equals and name and path):
            raise UserError(f"--prompt={value}", "is not NAME=DIR", "give a name and a folder")
        if re.fullmatch(NAME, name) is None:
            raise UserError(f"--prompt={value}", f"{name!r} cannot be a name", NAME_REMEDY)
        if name in folders:
            raise UserError(f"--prompt={value}", f"{name!r} is given twice", "give another name")
        folders[name] = path
    return folders
