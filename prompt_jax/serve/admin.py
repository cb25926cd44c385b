"""Handlers of prompts: which are loaded, load one, forget one; and of OpenAI's list of models."""

import re
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prompt_jax.errors import UserError
from prompt_jax.paths import is_local
from prompt_jax.serve import schema
from prompt_jax.serve.answers import parsed
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import HttpError, of_engine
from prompt_jax.serve.guard import Limits
from prompt_jax.serve.openapi import FILES
from prompt_jax.serve.table import NAME, NAME_REMEDY, read_entry

MOST_FILES = 8


class Admin:
    """The handlers of one engine. `root`: what an entry's `source` is below; None: nothing."""

    def __init__(self, engine: Engine, limits: Limits, root: str | None):
        self.engine, self.limits, self.root = engine, limits, root
        self.started = int(time.time())

    async def prompts(self, request: Request) -> Response:
        rows = [{"name": name, **facts} for name, facts in self.engine.prompts().items()]
        return JSONResponse({"prompts": rows})

    async def prompt(self, request: Request) -> Response:
        name = request.path_params["name"]
        facts = self.engine.prompts().get(name)
        if facts is None:
            raise HttpError(404, f"prompt {name!r} is not loaded", "name")
        return JSONResponse({"name": name, **facts})

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.engine.unload(name)
        return JSONResponse({"deleted": name})

    async def put(self, request: Request) -> Response:
        name = named(request.path_params["name"])
        loaded = self.engine.prompts()
        if name not in loaded and len(loaded) >= self.limits.prompts:
            raise HttpError(422, f"{len(loaded)} prompts are loaded, as many as may be", "name")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            facts = await self._uploaded(request, name)
        else:
            asked = await parsed(request, schema.SourceRequest)
            facts = await run_in_threadpool(self._from_root, name, asked.source)
        return JSONResponse({"name": name, **facts})

    async def _uploaded(self, request: Request, name: str) -> dict[str, Any]:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            files: dict[str, bytes] = {}
            for _, part in form.multi_items():
                if not isinstance(part, UploadFile):
                    raise HttpError(422, "a part of the form is not a file", "body")
                base = Path((part.filename or "").replace("\\", "/")).name
                if base not in FILES:
                    problem = f"{base[:80]!r} is not a file of a prompt; give {', '.join(FILES)}"
                    raise HttpError(422, problem, "body")
                files[base] = await part.read()
        if not files:
            raise HttpError(422, "no file", "body")
        return await run_in_threadpool(self._from_files, name, files)

    def _from_files(self, name: str, files: dict[str, bytes]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="prompt_jax_upload_") as folder:
            for file, data in files.items():
                (Path(folder) / file).write_bytes(data)
            return self._load(name, folder, folder, "upload")

    def _from_root(self, name: str, source: str) -> dict[str, Any]:
        if self.root is None:
            problem = "the server has no --prompt_root; upload the files"
            raise HttpError(403, problem, "source")
        path = below(self.root, source)
        return self._load(name, path, str(self.root), "--prompt_root")

    def _load(self, name: str, path: str, hidden: str, shown: str) -> dict[str, Any]:
        """What `engine.load` says; its errors name no folder of the server."""
        try:
            return self.engine.put(name, read_entry(path))
        except UserError as error:
            failure = of_engine(error)
            for folder in (str(Path(hidden).resolve()), hidden):
                failure.message = failure.message.replace(folder, shown)
            raise failure from None

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(m) for m in self._names()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in self._names():
            raise HttpError(404, f"model {name!r} is not loaded", "model")
        return JSONResponse(self._model(name))

    def _names(self) -> list[str]:
        return [self.engine.backbone.name, *self.engine.prompts()]

    def _model(self, name: str) -> dict[str, Any]:
        by = "prompt_jax"
        return {"id": name, "object": "model", "created": self.started, "owned_by": by}


def named(name: str) -> str:
    """A name that a prompt may have."""
    if re.fullmatch(NAME, name) is None:
        raise HttpError(422, f"name {name[:80]!r}: {NAME_REMEDY}", "name")
    return name


def below(root: str, source: str) -> str:
    """The path of an entry below `root`; HttpError where it would lead out of it."""
    parts = source.partition("?")[0].split("/")
    bad = not source or "\\" in source or "\0" in source or ":" in source
    if bad or any(part in ("", ".", "..") for part in parts):
        problem = "source: give an entry below --prompt_root, such as sst2/best"
        raise HttpError(422, problem, "source")
    if not is_local(root):
        return f"{root.rstrip('/')}/{source}"
    top = Path(root).resolve()
    path = top.joinpath(*parts)
    if not path.resolve().is_relative_to(top) or not epath.Path(path).exists():
        raise HttpError(404, f"there is no {source[:80]!r} below --prompt_root", "source")
    query = source.partition("?")[2]
    return f"{path}?{query}" if query else str(path)
