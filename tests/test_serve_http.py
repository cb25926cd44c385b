"""The server: what it answers, what it refuses, and who may do what."""

import asyncio
import io
import json
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from starlette.testclient import TestClient

import prompt_jax as pj
from prompt_jax.errors import UserError
from prompt_jax.model.sharding import MeshShape
from prompt_jax.serve import run
from prompt_jax.serve.app import Server
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.guard import Limits, Tokens, discard
from prompt_jax.serve.observe import Log
from prompt_jax.serve.openapi import document

N = 8
ADMIN = {"Authorization": "Bearer chief"}
READ = {"Authorization": "Bearer reader"}


@pytest.fixture(scope="module")
def engine(tiny: Path, kinds):
    backbone = pj.load_backbone(f"files:{tiny}/backbone", "float32")
    prompts = {name: kinds[name] for name in ("plain", "lora")}
    mesh = MeshShape().build(jax.devices()[:1])
    with Engine(backbone, prompts, 4, input_length=24, max_tokens=N, mesh=mesh) as engine:
        yield engine


class Lines(io.StringIO):
    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture(scope="module")
def root(kinds, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    shutil.copytree(kinds["plain"], folder / "plain" / "best")
    (folder / "out").symlink_to(kinds["lora"])
    (folder / "broken").mkdir()
    return folder


@pytest.fixture(scope="module")
def log() -> Lines:
    return Lines()


@pytest.fixture(scope="module")
def client(engine, root, log):
    limits = Limits(body=20_000, upload=300_000, inputs=16, prompts=6, seconds=60)
    tokens = Tokens(admin=("chief",))
    server = Server(engine, tokens=tokens, limits=limits, prompt_root=str(root), log=Log(log))
    server.ready = True
    # The engine is the fixture's to close, so the lifespan is left out.
    return TestClient(server.asgi, raise_server_exceptions=False)


def problem(response, status: int, text: str = "", param: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param"}
    assert text in error["message"], error
    assert param is None or error["param"] == param, error


def post(client, path: str, **body):
    return client.post(f"/v1/{path}", json=body)


def test_answers_are_those_of_the_engine(client, engine):
    texts = ["say a", "b"]
    wanted = engine.generate(texts, ["plain", None])
    body = {"inputs": texts, "prompt": ["plain", None], "top_k": 0.0}  # to JSON an integer
    answer = post(client, "generate", **body).json()
    assert [o["text"] for o in answer["outputs"]] == [w.text for w in wanted]
    assert [o["finish_reason"] for o in answer["outputs"]] == [w.finish_reason for w in wanted]
    scores = [o["score"] for o in answer["outputs"]]
    assert scores == pytest.approx([w.score for w in wanted], abs=1e-5)
    [ranked] = engine.rank(["say a"], ["a", "b"], "lora")
    answer = post(client, "rank", inputs=["say a"], choices=["a", "b"], prompt="lora").json()
    assert answer["outputs"][0]["choice"] == ranked.choice
    assert answer["outputs"][0]["scores"] == pytest.approx(ranked.scores, abs=1e-5)
    answer = post(client, "embed", inputs=texts).json()
    vectors = [o["embedding"] for o in answer["outputs"]]
    np.testing.assert_allclose(vectors, engine.embed(texts), atol=1e-5)


def events(response) -> list:
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_is_the_same_text(client, engine):
    texts = ["say a", "b"]
    wanted = engine.generate(texts, "plain")
    response = post(client, "generate", inputs=texts, prompt="plain", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response)
    for index, output in enumerate(wanted):
        mine = [event for event in found if event["index"] == index]
        assert "".join(event["text"] for event in mine) == output.text
        assert mine[-1]["finish_reason"] == output.finish_reason
        assert mine[-1]["score"] == pytest.approx(output.score, abs=1e-5)


def test_completions_are_openais(client, engine):
    [wanted] = engine.generate(["say a"], "plain", max_tokens=5)
    body = {"model": "plain", "prompt": "say a", "max_tokens": 5, "n": 1, "user": "me"}
    answer = post(client, "completions", **body).json()
    assert answer["object"] == "text_completion" and answer["model"] == "plain"
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (wanted.text, wanted.finish_reason)
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 6 and usage["completion_tokens"] == len(wanted.ids)
    chunks = events(post(client, "completions", **body, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == wanted.text
    assert chunks[-1]["choices"][0]["finish_reason"] == wanted.finish_reason
    bare = engine.backbone.name
    ids = [engine.backbone.vocabulary.encode("say a")] * 2
    assert len(post(client, "completions", model=bare, prompt=ids).json()["choices"]) == 2
    models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == [bare, "plain", "lora"]
    assert client.get(f"/v1/models/{bare}").json()["id"] == bare
    problem(client.get("/v1/models/nobody"), 404)
    problem(post(client, "completions", **{**body, "n": 2}), 422, "n: ", "n")
    problem(post(client, "completions", **{**body, "echo": True}), 422, "echo", "echo")
    problem(post(client, "completions", **{**body, "model": "nobody"}), 404, "is not loaded")


WRONG = [
    ("generate", b"{", 400, "the body is not JSON"),
    ("generate", b"[]", 422, "body: "),
    ("generate", b'{"inputs": "a"}', 422, "inputs: "),
    ("generate", b'{"inputs": []}', 422, "inputs: "),
    ("generate", b'{"inputs": ["a"], "more": 1}', 422, "more: "),
    ("generate", b'{"inputs": ["a"], "max_tokens": "1"}', 422, "max_tokens: "),
    ("generate", b'{"inputs": ["a"], "max_tokens": 1.5}', 422, "max_tokens: "),
    ("generate", b'{"inputs": ["a"], "seed": true}', 422, "seed: "),
    ("generate", b'{"inputs": ["a"], "max_tokens": 99}', 422, "max_tokens = 99: give 1 to 8"),
    ("generate", b'{"inputs": ["a"], "temperature": NaN}', 422, "temperature: "),
    ("generate", b'{"inputs": ["a"], "prompt": "nobody"}', 404, "prompt 'nobody': is not loaded"),
    ("generate", b'{"inputs": ["a"], "prompt": ["plain", null]}', 422, "2 names for 1 inputs"),
    ("generate", b'{"inputs": ["\\ud800"]}', 400, "the body is not JSON"),
    ("generate", b'{"inputs": ["%s"]}' % (b"a" * 40), 422, "inputs[0]: has 41 tokens"),
    ("generate", b'{"inputs": [%s]}' % b",".join([b'"a"'] * 17), 422, "17 inputs, at most 16"),
    ("generate", b'{"inputs": ["%s"]}' % (b"a" * 20_000), 413, "at most 20000"),
    ("rank", b'{"inputs": ["a"]}', 422, "choices: "),
    ("rank", b'{"inputs": ["a"], "choices": ["a", "a"]}', 422, "1 of them different"),
    ("rank", b'{"inputs": ["a"], "choices": [["a"], ["b"]]}', 422, "2 lists for 1 inputs"),
    ("embed", b"\xff", 400, "not JSON"),
]


@pytest.mark.parametrize(("path", "body", "status", "text"), WRONG)
def test_a_mistake_is_named(client, path, body, status, text):
    problem(client.post(f"/v1/{path}", content=body), status, text)


@pytest.mark.parametrize(("pieces", "read"), [(2, 2), (9, 3)])
def test_a_body_that_is_too_large_is_read_on_for_a_while(pieces, read):
    """So that its client, which is still sending, sees the reply."""
    messages = [{"body": b"a" * 100, "more_body": n + 1 < pieces} for n in range(pieces)]

    async def receive():
        return messages.pop(0)

    asyncio.run(discard(receive, most=250))
    assert len(messages) == pieces - read


def test_unknown_paths_and_methods_have_the_same_shape(client):
    problem(client.get("/v2/anything"), 404)
    wrong = client.get("/v1/generate")
    problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    assert "x-request-id" in wrong.headers


def test_prompts_are_loaded_and_forgotten(client, engine, kinds, root):
    folder = Path(kinds["lora"])
    parts = [
        ("files", (p.name, p.read_bytes(), "application/octet-stream")) for p in folder.iterdir()
    ]
    made = client.put("/v1/prompts/up", files=parts, headers=ADMIN)
    assert made.status_code == 200, made.text
    assert made.json()["name"] == "up" and made.json()["method"] == "LoRA"
    [wanted] = engine.generate(["say a"], "lora")
    assert (
        post(client, "generate", inputs=["say a"], prompt="up").json()["outputs"][0]["text"]
        == wanted.text
    )
    loaded = client.put("/v1/prompts/best", json={"source": "plain/best"}, headers=ADMIN)
    assert loaded.json()["rows"] == 4
    names = [prompt["name"] for prompt in client.get("/v1/prompts").json()["prompts"]]
    assert names == ["plain", "lora", "up", "best"]
    assert client.get("/v1/prompts/best").json() == loaded.json()
    for name in ("up", "best"):
        assert client.delete(f"/v1/prompts/{name}", headers=ADMIN).json() == {"deleted": name}
    problem(client.delete("/v1/prompts/up", headers=ADMIN), 404, "is not loaded")
    problem(client.get("/v1/prompts/up"), 404, "is not loaded")


SOURCES = [
    ("../plain/best", 422),
    ("/etc", 422),
    ("plain/../../x", 422),
    ("plain//best", 422),
    ("plain/./best", 422),
    ("..", 422),
    ("gs://bucket/x", 422),
    ("file:x", 422),
    ("a\\b", 422),
    ("a\x00b", 422),
    ("nothing", 404),
    ("out", 404),
    ("broken", 422),
    ("plain", 422),
]


@pytest.mark.parametrize(("source", "status"), SOURCES)
def test_no_path_of_the_server_can_be_read(client, root, source, status):
    answer = client.put("/v1/prompts/x", json={"source": source}, headers=ADMIN)
    problem(answer, status)
    for folder in (str(root), str(root.parent), str(root.resolve())):
        assert folder not in answer.text


def test_what_is_no_prompt_is_refused(client, kinds):
    def put(name, data, to="x"):
        return client.put(f"/v1/prompts/{to}", files=[("f", (name, data))], headers=ADMIN)

    problem(put("model.pkl", b"x"), 422, "'model.pkl' is not a file of a prompt")
    problem(put("../manifest.json", b"{}"), 422, "upload/")
    problem(put("adapter_config.json", b"{}"), 422)
    problem(put("manifest.json", b"x" * 400_000), 413)
    problem(client.put("/v1/prompts/x", content=b"", headers=ADMIN), 400)
    problem(client.put("/v1/prompts/-x", json={"source": "plain/best"}, headers=ADMIN), 422)
    form = {**ADMIN, "Content-Type": "multipart/form-data"}
    problem(client.put("/v1/prompts/x", content=b"--", headers=form), 400)
    text = client.put("/v1/prompts/x", files={"f": (None, b"text")}, headers=ADMIN)
    problem(text, 422)


def test_tokens(engine, log):
    def open_client(**tokens):
        server = Server(engine, tokens=Tokens(**tokens), log=Log(log))
        return TestClient(server.asgi)

    def ask(client, headers=None):
        return client.get("/v1/prompts", headers=headers)

    def delete(client, headers=None):
        return client.delete("/v1/prompts/nobody", headers=headers)

    nobody = open_client()
    assert ask(nobody).status_code == 200
    assert ask(nobody, READ).status_code == 200, "clients of OpenAI always send a token"
    problem(delete(nobody, ADMIN), 403, "no admin token was set")
    both = open_client(read=("reader",), admin=("chief",))
    problem(ask(both), 401)
    assert ask(both).headers["www-authenticate"] == "Bearer"
    problem(ask(both, {"Authorization": "Bearer other"}), 401)
    problem(ask(both, {"Authorization": "Basic reader"}), 401)
    assert ask(both, READ).status_code == ask(both, ADMIN).status_code == 200
    problem(delete(both), 401)
    problem(delete(both, READ), 403, "may read only")
    problem(delete(both, ADMIN), 404)
    assert both.get("/healthz").status_code == 200
    assert both.get("/").status_code == 200
    problem(both.get("/metrics"), 401)


def test_a_full_house_asks_to_come_again(engine, log):
    server = Server(engine, limits=Limits(requests=0), log=Log(log))
    answer = TestClient(server.asgi).post("/v1/generate", json={"inputs": ["a"]})
    problem(answer, 429, "0 requests are being answered")
    assert answer.headers["retry-after"] == "1"
    server = Server(engine, log=Log(log))
    client, before = TestClient(server.asgi), engine.worker.queue
    engine.worker.queue = 0
    try:
        problem(client.post("/v1/generate", json={"inputs": ["a"]}), 429, "too much waits")
        problem(client.post("/v1/generate", json={"inputs": ["a"], "stream": True}), 429)
    finally:
        engine.worker.queue = before
    problem(client.post("/v1/rank", json={"inputs": ["a"], "choices": ["b"], "timeout": 1e-9}), 503)


def test_a_server_that_drains_refuses_and_says_so(engine, log):
    server = Server(engine, log=Log(log))
    client = TestClient(server.asgi)
    problem(client.get("/readyz"), 503)
    server.ready = True
    assert client.get("/readyz").json() == {"status": "ready"}
    server.drain()
    problem(client.get("/readyz"), 503)
    problem(client.post("/v1/generate", json={"inputs": ["a"]}), 503, "closing")
    assert client.get("/healthz").json() == {"status": "ok"}


def test_metrics_and_logs_tell_no_inputs(client, log):
    assert post(client, "generate", inputs=["say secret"], prompt="plain").status_code == 200
    text = client.get("/metrics").text
    assert 'prompt_jax_requests_total{route="/v1/generate",status="200"}' in text
    for name in ("prompts 2.0", "slots 4.0", "busy_slots 0.0", "waiting_inputs 0.0"):
        assert f"prompt_jax_{name}" in text
    assert "prompt_jax_first_token_seconds_count" in text
    written = log.getvalue()
    assert "secret" not in written and "secret" not in text
    last = [e for e in log.events() if e["event"] == "request" and e["route"] == "/v1/generate"][-1]
    assert (last["status"], last["inputs"], last["method"]) == (200, 1, "POST")
    assert last["tokens"] >= 1 and last["seconds"] > 0


def test_the_document_names_every_route_and_its_parts(client):
    made = client.get("/openapi.json").json()
    assert made == json.loads(json.dumps(document(264, N, 16)))
    asked = made["components"]["schemas"]["GenerateRequest"]["properties"]
    assert asked["max_tokens"]["anyOf"][0]["maximum"] == N and asked["inputs"]["maxItems"] == 16
    refs = set()

    def walk(value):
        if isinstance(value, dict):
            refs.update(v for k, v in value.items() if k == "$ref")
            list(map(walk, value.values()))
        elif isinstance(value, list):
            list(map(walk, value))

    walk(made)
    there = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    assert refs <= there
    assert {"/v1/generate", "/v1/prompts/{name}", "/readyz"} <= set(made["paths"])


def test_flags_are_checked(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("one\n\ntwo\n")
    assert run.tokens_of(str(tmp_path / "two"), None) == Tokens(read=("one", "two"))
    assert run.named_prompts(["a=b", "c=gs://d=e"]) == {"a": "b", "c": "gs://d=e"}
    wrong = {
        "--prompt=a: is not NAME=DIR": lambda: run.named_prompts(["a"]),
        "'-' cannot be a name": lambda: run.named_prompts(["-=b"]),
        "'a' is given twice": lambda: run.named_prompts(["a=b", "a=c"]),
        "has no token": lambda: run.tokens_of(str(tmp_path / "empty"), None),
        "cannot be read": lambda: run.tokens_of(None, str(tmp_path / "none")),
        "'x' is not a kind of request": lambda: run.kinds_of("rank,x"),
    }
    for message, call in wrong.items():
        with pytest.raises(UserError, match=message):
            call()


def test_a_closed_connection_gives_its_slots_back(engine, log):
    """Through a socket, as a client that goes away cannot be had in process."""
    import socket
    import threading

    import uvicorn

    server = Server(engine, log=Log(log))
    config = uvicorn.Config(server.asgi, log_config=None, lifespan="off", port=0)
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    try:
        while not runner.started:
            time.sleep(0.01)
        port = runner.servers[0].sockets[0].getsockname()[1]
        body = json.dumps({"inputs": ["say a"] * 64}).encode()
        head = f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            deadline = time.monotonic() + 30
            while not engine.worker.live and time.monotonic() < deadline:
                time.sleep(0.001)
        while (engine.worker.live or engine.worker.waiting) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not engine.worker.live and not engine.worker.waiting
    finally:
        runner.should_exit = True
        thread.join()
