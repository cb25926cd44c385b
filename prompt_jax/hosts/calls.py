"""Calls between the processes of a run: sockets that carry one JSON object a line (`hosts`)."""

import json
import socket
from typing import Any

from prompt_jax.errors import UserError

SILENCE = 30  # seconds after which a host that answers nothing at all counts as lost
GREETING = 4096  # bytes that a message may have


def open_listener(port: int, calls: int) -> socket.socket:
    """A socket for so many calls; UserError where the port is taken."""
    try:
        return socket.create_server(("", port), backlog=calls)
    except OSError as error:
        raise UserError(
            f"--coordinator=...:{port}",
            f"process 0 cannot listen at port {port} ({error.strerror})",
            "give another one to all",
        ) from error


def keep_alive(call: socket.socket) -> None:
    """The kernel notices a silent host after SILENCE seconds."""
    call.settimeout(None)
    call.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    call.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE // 3)
    call.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE // 6)
    call.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def hang_up(call: socket.socket, file: Any) -> None:
    call.close()
    file.close()


def say(call: socket.socket, message: dict[str, Any]) -> None:
    call.sendall(json.dumps(message).encode() + b"\n")


def hear(file) -> dict[str, Any] | None:
    """The next message; None at the end of the call, or where it is none of ours."""
    try:
        line = file.readline(GREETING)
        message = json.loads(line) if line else None
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
