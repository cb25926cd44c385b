"""The server as an ASGI application: routes, and what stands before them."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from prompt_jax.errors import RunError, UserError
from prompt_jax.serve.admin import Admin
from prompt_jax.serve.answers import Answers
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import HttpError, of_engine
from prompt_jax.serve.guard import Guard, Limits, Tokens
from prompt_jax.serve.observe import Log, Metrics
from prompt_jax.serve.openapi import document

Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """One engine behind HTTP; `asgi` is the application.

    `ready` says whether requests should come (`/readyz`); whoever starts the server sets it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tokens: Tokens = Tokens(),  # noqa: B008 (frozen)
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        prompt_root: str | None = None,
        log: Log | None = None,
    ):
        self.engine, self.ready = engine, False
        self.metrics = Metrics(engine)
        answers, admin = Answers(engine, limits, self.metrics), Admin(engine, limits, prompt_root)
        size = engine.backbone.config.vocab_size
        document_json = document(size, engine.max_tokens, limits.inputs)
        page = files("prompt_jax.serve").joinpath("page.html").read_text(encoding="utf-8")

        async def index(request: Request) -> Response:
            return HTMLResponse(page)

        async def openapi(request: Request) -> Response:
            return JSONResponse(document_json)

        handlers: list[tuple[str, str, Handler]] = [
            ("/v1/generate", "POST", answers.generate),
            ("/v1/rank", "POST", answers.rank),
            ("/v1/embed", "POST", answers.embed),
            ("/v1/completions", "POST", answers.completions),
            ("/v1/models", "GET", admin.models),
            ("/v1/models/{model:path}", "GET", admin.model),
            ("/v1/prompts", "GET", admin.prompts),
            ("/healthz", "GET", self.healthz),
            ("/readyz", "GET", self.readyz),
            ("/metrics", "GET", self.scrape),
            ("/openapi.json", "GET", openapi),
            ("/", "GET", index),
        ]
        by_method = {"GET": admin.prompt, "PUT": admin.put, "DELETE": admin.delete}

        async def one_prompt(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            return await by_method[method](request)

        routes = [Route(p, routed(p, h), methods=[m]) for p, m, h in handlers]
        name = "/v1/prompts/{name}"
        routes.append(Route(name, routed(name, one_prompt), methods=list(by_method)))
        app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: plain, Exception: failed},
            lifespan=self.lifespan,
        )
        app.router.redirect_slashes = False
        self.guard = self.asgi = Guard(app, tokens, limits, self.metrics, log or Log())

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.engine.close()

    def drain(self) -> None:
        """Refuses new requests; those that are there end."""
        self.ready, self.guard.draining = False, True

    async def healthz(self, request: Request) -> Response:
        if not self.engine.alive:
            raise HttpError(503, "the engine has failed")
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        if not (self.ready and self.engine.alive):
            raise HttpError(503, "not ready")
        return JSONResponse({"status": "ready"})

    async def scrape(self, request: Request) -> Response:
        text = generate_latest(self.metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def routed(path: str, handler: Handler) -> Handler:
    """The handler, whose route is logged and whose errors are answers."""

    async def handle(request: Request) -> Response:
        request.state.facts["route"] = path
        try:
            return await handler(request)
        except HttpError as error:
            return error.response()
        except (UserError, RunError, TimeoutError) as error:
            return of_engine(error).response()

    return handle


async def plain(request: Request, error: Exception) -> Response:
    """Starlette's own errors, such as an unknown path or method, in our shape."""
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in (404, 405, 413) else 400
    response = HttpError(status, str(error.detail)).response()
    response.headers.update(error.headers or {})
    return response


async def failed(request: Request, error: Exception) -> Response:
    return HttpError(500, "the server failed; its log says why").response()
