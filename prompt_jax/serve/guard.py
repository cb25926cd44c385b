"""What stands before every handler: tokens, limits, the log, and errors in one shape.

Plain ASGI, so that bodies are counted as they come and a stream is timed to its end.
"""

import asyncio
import contextlib
import hmac
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_jax.serve.errors import HttpError
from prompt_jax.serve.observe import Log, Metrics

OPEN = ("/", "/healthz", "/readyz", "/openapi.json")  # asked without a token, never refused
ADMIN = ("PUT", "DELETE")
DISCARDING = 2.0


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
      body, upload: bytes of a request, and of one that brings a prompt.
      inputs: texts of one request.
      requests: being answered at a time; more get 429.
      prompts: loaded at a time.
      seconds: of one request, its body among them.
    """

    body: int = 1 << 20
    upload: int = 256 << 20
    inputs: int = 256
    requests: int = 64
    prompts: int = 10_000
    seconds: float = 60.0


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens; no `read` token: anybody reads. No `admin` token: nobody changes prompts."""

    read: Sequence[str] = field(default=(), repr=False)
    admin: Sequence[str] = field(default=(), repr=False)

    def check(self, header: str, method: str) -> None:
        """HttpError unless the Authorization header allows the method."""
        kind, _, token = header.partition(" ")
        given = token.strip() if kind.lower() == "bearer" else ""
        is_admin = _among(given, self.admin)
        if method in ADMIN:
            if not self.admin:
                raise HttpError(403, "no admin token was set: start with --admin_tokens=FILE")
            if not given or not (is_admin or _among(given, self.read)):
                raise HttpError(401, "give an admin token: Authorization: Bearer TOKEN")
            if not is_admin:
                raise HttpError(403, "this token may read only")
        elif self.read and not (is_admin or _among(given, self.read)):
            raise HttpError(401, "give a token: Authorization: Bearer TOKEN")


def _among(given: str, tokens: Sequence[str]) -> bool:
    equal = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    return bool(given) and any(equal)


class Guard:
    """Wraps the routes. `draining` refuses what comes, and lets what is there end."""

    def __init__(self, app: ASGIApp, tokens: Tokens, limits: Limits, metrics: Metrics, log: Log):
        self.app, self.tokens, self.limits = app, tokens, limits
        self.metrics, self.log = metrics, log
        self.open = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, number = time.monotonic(), uuid.uuid4().hex
        scope.setdefault("state", {})["facts"] = facts = {}
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        try:
            async with asyncio.timeout(self.limits.seconds + 5):  # handlers end before
                await self._guarded(scope, receive, answer)
        except HttpError as error:
            if error.status == 413:
                await discard(receive, self.most(scope))
            if not status:
                await error.response()(scope, receive, answer)
        except TimeoutError:
            if not status:
                await HttpError(503, "the request took too long").response()(scope, receive, answer)
        except Exception as error:
            facts["error"] = f"{type(error).__name__}: {error}"
            if not status:
                failed = HttpError(500, "the server failed; its log says why")
                await failed.response()(scope, receive, answer)
        finally:
            seconds = time.monotonic() - started
            route = facts.pop("route", "none")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            self.log(
                "request",
                "error" if "error" in facts else "info",
                id=number,
                method=scope["method"],
                route=route,
                status=status,
                seconds=round(seconds, 4),
                **facts,
            )

    def most(self, scope: Scope) -> int:
        """The most bytes that the body of a request may have."""
        return self.limits.upload if scope["method"] == "PUT" else self.limits.body

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        self.tokens.check(headers.get(b"authorization", b"").decode("latin-1"), scope["method"])
        if self.draining:
            raise HttpError(503, "the server is closing")
        if self.open >= self.limits.requests:
            raise HttpError(429, f"{self.open} requests are being answered")
        self.open += 1
        self.metrics.open.set(self.open)
        try:
            await self.app(scope, counted(receive, headers, self.most(scope)), send)
        finally:
            self.open -= 1
            self.metrics.open.set(self.open)


async def discard(receive: Receive, most: int) -> None:
    """Reads on for `most` bytes or DISCARDING seconds: a client that is still sending when its
    connection is closed may lose the reply (RFC 9112, section 9.6)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARDING):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def counted(receive: Receive, headers: dict[bytes, bytes], most: int) -> Receive:
    """`receive`, which raises HttpError where the body has more than `most` bytes."""
    declared = headers.get(b"content-length", b"0")
    size = int(declared[:19]) if declared.isdigit() else 0  # int() refuses thousands of digits
    if size > most:
        raise HttpError(413, f"the body has {size} bytes, at most {most} are taken")
    seen = 0

    async def count() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HttpError(413, f"the body has more than {most} bytes")
        return message

    return count
