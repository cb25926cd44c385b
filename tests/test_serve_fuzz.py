"""Damaged requests and prompts: a server answers, or refuses with an error of the one shape.

It never fails, and tells no path of its own.
"""

import io
import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from damage import damaged_bytes, damaged_safetensors, damaged_text, fuzz, seeds
from starlette.testclient import TestClient

import prompt_jax as pj
from prompt_jax.export import peft
from prompt_jax.export.formats import About
from prompt_jax.model.sharding import MeshShape
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.serve.app import Server
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.errors import TYPES
from prompt_jax.serve.guard import Limits, Tokens
from prompt_jax.serve.observe import Log

pytestmark = pytest.mark.slow
ADMIN = {"Authorization": "Bearer chief"}
KINDS = ("plain", "both", "prefix", "lora", "mixed", "once", "peft")
BODIES = {
    "generate": {"inputs": ["say a", "b"], "prompt": ["plain", None], "max_tokens": 2, "seed": 1},
    "rank": {"inputs": ["say a"], "prompt": "lora", "choices": ["a", "b"]},
    "embed": {"inputs": ["say a"], "prompt": "plain"},
    "completions": {"model": "plain", "prompt": ["say a"], "max_tokens": 2, "stop": ["x"]},
}
HEADERS = (
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "range",
    "transfer-encoding",
    "x-forwarded-for",
)
VALUES = (
    b"",
    b" ",
    b"0",
    b"-1",
    b"7",
    b"9" * 5000,
    b"1e3",
    b"\xff\xfe",
    b"\xe2\x82\xac",
    b"chunked",
    b"gzip",
    b"Bearer",
    b"Bearer chief",
    b"Bearer \xff",
    b"Basic Y2hpZWY6",
    b"application/json; charset=utf-16",
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b"multipart/form-data; boundary=--x; boundary=y",
    b"multipart/form-data; boundary=" + b"x" * 3000,
    b"a" * 20_000,
    b"%00../../etc",
)


class Guarded:
    """A client, and what no reply of its server may hold."""

    def __init__(self, engine: Engine, root: Path):
        self.engine, self.lines = engine, io.StringIO()
        limits = Limits(body=20_000, upload=300_000, inputs=16, prompts=8, seconds=60)
        server = Server(
            engine,
            tokens=Tokens(admin=("chief",)),
            limits=limits,
            prompt_root=str(root),
            log=Log(self.lines),
        )
        server.ready = True
        self.client = TestClient(server.asgi, raise_server_exceptions=False)
        names = (str(root), str(Path(pj.__file__).parent), "Traceback")
        # A folder for an upload would be beside those of pytest, whose names are in the prompts.
        made = rf"{re.escape(tempfile.gettempdir())}/(?!pytest-)"
        self.hidden = re.compile("|".join([*map(re.escape, names), made]))

    def ask(self, method: str, path: str, **request) -> int:
        """The status of a reply that is as it should be."""
        self.lines.truncate(self.lines.seek(0))
        reply = self.client.request(method, path, **request)
        assert 200 <= reply.status_code < 500, (reply.text, self.lines.getvalue())
        assert not self.hidden.search(reply.text), reply.text
        if reply.status_code >= 400 and method != "HEAD":
            assert set(reply.json()) == {"error"}
            error = reply.json()["error"]
            assert set(error) == {"message", "type", "param"} and error["message"], error
            assert error["type"] == TYPES[reply.status_code], (reply.status_code, error)
        return reply.status_code

    def used(self, status: int, name: str) -> None:
        """A prompt that was loaded answers, and goes again."""
        if status == 200:
            body = {"inputs": ["say a"], "prompt": name, "max_tokens": 1}
            self.ask("POST", "/v1/generate", json=body)
            assert self.ask("DELETE", f"/v1/prompts/{name}", headers=ADMIN) == 200


@pytest.fixture(scope="module")
def folders(kinds, tiny, tmp_path_factory) -> Path:
    """An artefact of every kind, and a PEFT folder."""
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(5)
    for name in ("plain", "both", "prefix", "lora"):
        shutil.copytree(kinds[name], root / name)
    plain = load_prompt(kinds["plain"])
    P, D = plain.arrays["encoder"].shape
    shapes = {"sources": (2, P, D), "down": (D, 3), "up": (3, D), "scale": (D,), "bias": (D,)}
    own = {f"mixture/{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    save_prompt(root / "mixed", {**plain.arrays, **own}, {**plain.manifest, "method": "Attempt"})
    once = {"input": False, "prompt": "all", "computed_once": True}
    save_prompt(root / "once", plain.arrays, {**plain.manifest, "visibility": once})
    peft.write(root / "peft", load_prompt(kinds["lora"]), About())
    (root / "peft" / "README.md").unlink()
    return root


@pytest.fixture(scope="module")
def server(tiny, kinds, folders) -> Iterator[Guarded]:
    backbone = pj.load_backbone(f"files:{tiny}/backbone", "float32")
    prompts = {name: str(folders / name) for name in KINDS}
    mesh = MeshShape().build(jax.devices()[:1])
    with Engine(backbone, prompts, 2, input_length=24, max_tokens=4, mesh=mesh) as engine:
        for name in set(KINDS) - {"plain", "lora"}:  # the kinds stay, so that little is compiled
            engine.unload(name)
        yield Guarded(engine, folders)
        assert engine.alive


@pytest.mark.parametrize("path", BODIES)
def test_bodies(server, path):
    whole = json.dumps(BODIES[path]).encode()

    @fuzz
    @seeds
    def run(seed):
        server.ask("POST", f"/v1/{path}", content=damaged_text(whole, random.Random(seed)))

    run()


@pytest.mark.parametrize("method, path", [("POST", "/v1/embed"), ("PUT", "/v1/prompts/x")])
def test_headers(server, folders, method, path):
    body = BODIES["embed"] if method == "POST" else {"source": "plain"}

    @fuzz
    @seeds
    def run(seed):
        rng = random.Random(seed)
        headers = [(name.encode(), value.encode()) for name, value in ADMIN.items()]
        headers = headers * rng.randint(0, 1)
        for _ in range(rng.randint(1, 3)):
            headers.append((rng.choice(HEADERS).encode(), rng.choice(VALUES)))
        status = server.ask(method, path, content=json.dumps(body).encode(), headers=headers)
        if method == "PUT":
            server.used(status, "x")

    run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["upload", "source"])
def test_prompts(server, folders, kind, by):
    whole = {file.name: file.read_bytes() for file in (folders / kind).iterdir()}

    @fuzz
    @seeds
    def run(seed):
        rng, files = random.Random(seed), dict(whole)
        name = rng.choice(sorted(files))
        damage = damaged_safetensors if name.endswith(".safetensors") else damaged_text
        files[name] = damage(files[name], rng)
        if rng.random() < 0.1:
            del files[rng.choice(sorted(files))]
        if by == "upload":
            parts = [("files", (file, data)) for file, data in files.items()]
            status = server.ask("PUT", "/v1/prompts/x", files=parts, headers=ADMIN)
        else:
            with tempfile.TemporaryDirectory(dir=folders) as folder:
                for file, data in files.items():
                    (Path(folder) / file).write_bytes(data)
                source = {"source": Path(folder).name}
                status = server.ask("PUT", "/v1/prompts/x", json=source, headers=ADMIN)
        server.used(status, "x")

    run()


def test_forms(server, folders):
    """Bytes of a whole upload that are damaged: heads of parts, boundaries, names of files."""
    parts = [("files", (file.name, file.read_bytes())) for file in (folders / "plain").iterdir()]
    made = server.client.build_request("PUT", "/v1/prompts/x", files=parts)
    whole, kind = made.read(), made.headers["content-type"]

    @fuzz
    @seeds
    def run(seed):
        rng = random.Random(seed)
        head = {**ADMIN, "Content-Type": kind if rng.random() < 0.9 else kind[: rng.randint(9, 60)]}
        near = whole.find(b"\r\n\r\n", rng.randrange(len(whole)))
        at = rng.choice((0, max(near - 120, 0)))
        body = whole[:at] + damaged_bytes(whole[at : at + 300], rng) + whole[at + 300 :]
        server.used(server.ask("PUT", "/v1/prompts/x", content=body, headers=head), "x")

    run()


@pytest.mark.parametrize("path", ["/v1/prompts/{}", "/v1/models/{}", "/{}"])
def test_paths(server, path):
    names = (
        "..",
        "%2e%2e%2f%2e%2e",
        "%00",
        "%ff",
        "a" * 5000,
        "x?task=y",
        "..%2fetc%2fpasswd",
        "é",
    )

    @fuzz
    @seeds
    def run(seed):
        rng = random.Random(seed)
        name = "".join(rng.choices(names, k=rng.randint(1, 3)))
        method = rng.choice(("GET", "PUT", "DELETE", "POST", "HEAD", "PATCH", "OPTIONS"))
        server.ask(method, path.format(name), headers=ADMIN)

    run()
