"""Handlers of requests for answers: generate, rank, embed, and OpenAI's completions."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from prompt_jax.serve import schema
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import HttpError
from prompt_jax.serve.guard import Limits
from prompt_jax.serve.inputs import choices_of
from prompt_jax.serve.observe import Metrics
from prompt_jax.serve.requests import Ask, Decoding, ranking, vector

GRACE = 0.5  # seconds after its deadline that the engine has to say that a request is late
M = TypeVar("M", bound=BaseModel)


async def parsed(request: Request, model: type[M]) -> M:
    """The body as a model; HttpError 400 where it is no JSON, 422 where a field is wrong."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise HttpError(400, f"the body is not JSON: {first['msg']}") from None
        path = [str(part) for part in first["loc"] if not str(part).startswith(("list[", "str"))]
        where = ".".join(path) or "body"
        raise HttpError(422, f"{where}: {first['msg']}", path[0] if path else None) from None


class Answers:
    """The handlers of one engine."""

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics):
        self.engine, self.limits, self.metrics = engine, limits, metrics

    async def generate(self, request: Request) -> Response:
        asked = await parsed(request, schema.GenerateRequest)
        asks = await self.asks(request, asked.inputs, asked.prompt, asked.timeout)
        self.decode(asks, asked)
        if asked.stream:
            return await self.streamed(request, asks, _piece, _end)
        await self.answered(request, asks)
        results = [ask.result() for ask in asks]
        outputs = [
            {"text": r.text, "score": r.score, "finish_reason": r.finish_reason} for r in results
        ]
        return JSONResponse({"outputs": outputs})

    async def rank(self, request: Request) -> Response:
        asked = await parsed(request, schema.RankRequest)
        self.limit(asked.inputs)
        deadline = self.seconds(asked.timeout)
        args = (asked.inputs, asked.choices, asked.prompt, deadline)
        asks = await run_in_threadpool(self.engine.rank_asks, *args)
        await self.answered(request, asks)
        choices = choices_of(asked.choices, len(asks))
        ranked = [
            ranking(ask, each, asked.length_normalised)
            for ask, each in zip(asks, choices, strict=True)
        ]
        return JSONResponse({"outputs": [r._asdict() for r in ranked]})

    async def embed(self, request: Request) -> Response:
        asked = await parsed(request, schema.EmbedRequest)
        asks = await self.asks(request, asked.inputs, asked.prompt, asked.timeout)
        await self.answered(request, asks)
        return JSONResponse({"outputs": [{"embedding": vector(ask).tolist()} for ask in asks]})

    async def completions(self, request: Request) -> Response:
        asked = await parsed(request, schema.CompletionRequest)
        one = isinstance(asked.prompt, str) or isinstance(asked.prompt[0], int)
        inputs: Any = [asked.prompt] if one else asked.prompt
        name = None if asked.model == self.engine.backbone.name else asked.model
        asks = await self.asks(request, inputs, name, asked.timeout)
        self.decode(asks, asked)
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }

        def chunk(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
            choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            return {**head, "choices": [choice]}

        if asked.stream:
            end = lambda index, ask: chunk(index, "", ask.reason)  # noqa: E731
            return await self.streamed(request, asks, chunk, end)
        await self.answered(request, asks)
        choices = [
            {"index": i, "text": ask.text, "logprobs": None, "finish_reason": ask.reason}
            for i, ask in enumerate(asks)
        ]
        read, written = sum(len(a.inputs) for a in asks), sum(len(a.ids) for a in asks)
        usage = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
        return JSONResponse({**head, "choices": choices, "usage": usage})

    # What they share

    def limit(self, inputs: Sequence[Any]) -> None:
        if len(inputs) > self.limits.inputs:
            problem = f"{len(inputs)} inputs, at most {self.limits.inputs} are taken at a time"
            raise HttpError(422, problem, "inputs")

    def seconds(self, given: float | None) -> float:
        return self.limits.seconds if given is None else min(given, self.limits.seconds)

    async def asks(self, request: Request, inputs, prompt, timeout: float | None) -> list[Ask]:
        self.limit(inputs)
        args = (inputs, prompt, self.seconds(timeout))
        asks = await run_in_threadpool(self.engine.asks, *args)
        request.state.facts["inputs"] = len(asks)
        return asks

    def decode(self, asks: Sequence[Ask], asked: schema.Sampled) -> None:
        """Says how the asks are to be written."""
        most = self.engine.max_tokens if asked.max_tokens is None else asked.max_tokens
        decoding = Decoding(
            most, asked.temperature, asked.top_k, asked.top_p, asked.seed, asked.stops
        )
        for number, ask in enumerate(asks):
            ask.decoding = self.engine.checked(decoding._replace(seed=asked.seed + number))

    async def answered(self, request: Request, asks: Sequence[Ask]) -> None:
        """Until all asks are done; HttpError where the deadline passes or the client goes."""
        loop, done, left = asyncio.get_running_loop(), asyncio.Event(), len(asks)

        def one() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        for ask in asks:
            ask.on_done = _called(loop, one)
        self.engine.worker.submit(asks)
        gone, waiting = asyncio.ensure_future(left_by(request)), asyncio.ensure_future(done.wait())
        try:
            both = {gone, waiting}
            await asyncio.wait(both, timeout=_remaining(asks), return_when="FIRST_COMPLETED")
        finally:
            gone.cancel()
            waiting.cancel()
            for ask in asks:
                ask.cancel()  # nothing to one that is done
        if not done.is_set() or any(ask.reason == "deadline" for ask in asks):
            raise HttpError(503, "the deadline passed before all was answered")
        self.observe(request, asks)

    def observe(self, request: Request, asks: Sequence[Ask]) -> None:
        request.state.facts["tokens"] = sum(len(ask.ids) for ask in asks)
        for ask in asks:
            if ask.first is not None:
                self.metrics.first_token.observe(ask.first - ask.asked)

    async def streamed(
        self,
        request: Request,
        asks: Sequence[Ask],
        piece: Callable[[int, str], dict[str, Any]],
        end: Callable[[int, Ask], dict[str, Any]],
    ) -> Response:
        """Server-sent events: a `piece` for each that is written, an `end` of each ask."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        for index, ask in enumerate(asks):
            ask.listener = _listener(loop, events, index)
        self.engine.worker.submit(asks)

        async def lines() -> AsyncIterator[str]:
            gone = asyncio.ensure_future(left_by(request))
            gone.add_done_callback(lambda _: events.put_nowait((-1, None)))
            open_asks = len(asks)
            try:
                while open_asks:
                    async with asyncio.timeout(_remaining(asks)):
                        index, text = await events.get()
                    if index < 0:
                        return
                    open_asks -= text is None
                    if text is not None:
                        yield _event(piece(index, text))
                    elif (error := asks[index].error) is not None:
                        yield _event(HttpError(503, str(error)).body())
                    else:
                        yield _event(end(index, asks[index]))
                yield "data: [DONE]\n\n"
                self.observe(request, asks)
            except TimeoutError:
                yield _event(HttpError(503, "the deadline passed").body())
            finally:
                gone.cancel()
                for ask in asks:
                    ask.cancel()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _piece(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text}


def _end(index: int, ask: Ask) -> dict[str, Any]:
    result = ask.result()
    facts = {"score": result.score, "finish_reason": result.finish_reason}
    return {"index": index, "text": "", **facts}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _remaining(asks: Sequence[Ask]) -> float | None:
    deadlines = [ask.deadline for ask in asks if ask.deadline is not None]
    return max(min(deadlines) - time.monotonic(), 0) + GRACE if deadlines else None


def _called(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args) -> Any:
    """What another thread may call; nothing happens once the loop is closed."""

    def from_thread(*more) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, *args, *more)

    return from_thread


def _listener(loop, events: asyncio.Queue, index: int) -> Callable[[str | None], None]:
    put: Callable[..., None] = lambda text: events.put_nowait((index, text))  # noqa: E731
    return _called(loop, put)


async def left_by(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
