"""A server under all at once: does every request get its right reply, an error, or a closed door?

    python benchmarks/serving_soak.py [--minutes=10] [--prompts=100] [--clients=8] [--kill_at=0.5]

Starts `prompt-jax serve` for nano with random prompts and a `--prompt_root`, keeps it saturated,
and meanwhile loads and unloads prompts, cancels requests, reads streams slowly, and sends what is
malformed, too large, or of an unknown prompt. At `--kill_at` of the time the server is killed with
SIGKILL and started again. Every reply is compared with that of `pj.Engine` with the prompt alone;
ids are the text's, scores agree to 1e-3 (other batches round otherwise). Ends with SIGTERM.

Prints a line of JSON: replies by status, wrong replies (there must be none), requests without any
reply that were not open at the kill (none), the longest that was waited for, p50 and p99 of good
replies, and the resident memory in each tenth of the time after the restart.
"""

import argparse
import asyncio
import collections
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import prompt_jax as pj
from prompt_jax.prompt.artefact import save_prompt
from prompt_jax.serve.engine import Engine

TIMEOUT, MAX_TOKENS, MOST_BODY = 60.0, 8, 65_536
CHOICES = ["good", "bad", "neither of them"]
TEXTS = ["a moving and funny film", "who wrote it?", "the striker scored", "", "one two three four"]


class Soak:
    def __init__(self, folder: Path, prompts: int, clients: int):
        self.folder, self.clients = folder, clients
        self.names = [f"p{n}" for n in range(prompts)]
        self.absent: set[str] = set()  # being loaded or unloaded: 404 is right for them
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.seconds: list[float] = []
        self.memory: list[tuple[float, int]] = []
        self.longest, self.killed_at, self.up_at = 0.0, 0.0, 0.0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def prepare(self) -> None:
        """Writes the prompts, and asks each alone for what the server must say."""
        backbone = pj.load_backbone("nano", "float32")
        rng = np.random.default_rng(0)
        facts: dict[str, Any] = dict.fromkeys(("tokenizer", "task", "metric", "step", "seed"))
        facts |= {"method": "SoftPrompt", "settings": {}, "placement": "prefix"}
        facts |= {"visibility": {"input": True, "prompt": "all"}}
        facts |= {"backbone": {"name": "nano", "digest": backbone.digest}}
        for n, name in enumerate(self.names):
            rows = rng.normal(0, 3, (5 + n % 12, backbone.config.emb_dim)).astype(np.float32)
            save_prompt(self.folder / "root" / name, {"encoder": rows}, facts)
        (self.folder / "admin").write_text("chief\n")
        self.wanted: dict[tuple[str, str], tuple[str, float, str]] = {}
        paths = {name: str(self.folder / "root" / name) for name in self.names}
        options: dict[str, Any] = {"input_length": 32, "max_tokens": MAX_TOKENS}
        with Engine(backbone, paths, 8, **options) as engine:
            for name in self.names:
                written = engine.generate(TEXTS, name)
                ranked = engine.rank(TEXTS, CHOICES, name)
                for text, output, ranking in zip(TEXTS, written, ranked, strict=True):
                    self.wanted[name, text] = (output.text, output.score, ranking.choice)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "prompt_jax",
            "serve",
            "--backbone=nano",
            "--dtype=float32",
            f"--port={self.port}",
            "--slots=8",
            "--input_length=32",
            f"--max_tokens={MAX_TOKENS}",
            f"--prompt_root={self.folder / 'root'}",
            f"--admin_tokens={self.folder / 'admin'}",
            f"--timeout={TIMEOUT}",
            f"--max_body={MOST_BODY}",
            "--queue=64",
            "--max_requests=32",
            *(f"--prompt={name}={self.folder / 'root' / name}" for name in self.names),
        ]
        log = open(self.folder / "log", "a")  # noqa: SIM115 (the server's)
        self.server = subprocess.Popen(command, stderr=log)

    async def ready(self) -> None:
        for _ in range(1200):
            try:
                if (await self.call("GET", "/readyz"))[0] == 200:
                    self.up_at = time.monotonic()
                    return
            except OSError:
                pass
            await asyncio.sleep(0.5)
        raise SystemExit("the server does not become ready")

    async def call(self, method: str, path: str, body: bytes = b"", head: str = "") -> Any:
        """(status, body) over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            start = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}"
            writer.write(f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            data = await asyncio.wait_for(reader.read(-1), TIMEOUT + 15)
        finally:
            writer.close()
        if not data:
            raise ConnectionResetError("closed without a reply")
        first, _, rest = data.partition(b"\r\n")
        head_bytes, _, content = rest.partition(b"\r\n\r\n")
        if b"chunked" in head_bytes.lower():
            content = b"".join(content.split(b"\r\n")[1::2])
        return int(first.split()[1]), content

    async def timed(self, what: str, method: str, path: str, body: bytes, head: str = "") -> Any:
        """`call`, counted; None where no reply came."""
        began = time.monotonic()
        try:
            status, content = await self.call(method, path, body, head)
        except (TimeoutError, OSError, ValueError, IndexError) as error:
            self.statuses[f"{what} closed"] += 1
            if not self.open_at_kill(began):
                self.lost.append(f"{what}: {type(error).__name__} {error}")
            return None
        took = time.monotonic() - began
        self.longest = max(self.longest, took)
        self.statuses[f"{what} {status}"] += 1
        if status == 200:
            self.seconds.append(took)
        return status, content

    def open_at_kill(self, began: float) -> bool:
        """Whether a request that began then may be lost: it was open at the kill, or came while
        nothing listened."""
        return self.killed_at <= time.monotonic() and bool(self.killed_at) and began <= self.up_at

    def check(self, what: str, name: str, good: bool, told: object) -> None:
        if not good:
            self.wrong.append(f"{what} {name}: {str(told)[:200]}")

    async def ask(self, rng: random.Random) -> None:
        """One of the things that clients do."""
        name, text = rng.choice(self.names), rng.choice(TEXTS)
        text_wanted, score, choice = self.wanted[name, text]
        kind = rng.choices(
            ["generate", "rank", "stream", "slow", "cancel", "bad", "large", "unknown"],
            [8, 4, 3, 1, 1, 1, 0.3, 0.5],
        )[0]
        asked: dict[str, Any] = {"prompt": name, "inputs": [text]}
        if kind == "generate":
            reply = await self.timed(kind, "POST", "/v1/generate", json.dumps(asked).encode())
            if reply and reply[0] == 200:
                output = json.loads(reply[1])["outputs"][0]
                same = output["text"] == text_wanted and abs(output["score"] - score) < 1e-3
                self.check(kind, name, same, (output, text_wanted, score))
        elif kind == "rank":
            body = json.dumps({**asked, "choices": CHOICES}).encode()
            reply = await self.timed(kind, "POST", "/v1/rank", body)
            if reply and reply[0] == 200:
                output = json.loads(reply[1])["outputs"][0]
                self.check(kind, name, output["choice"] == choice, (output, choice))
        elif kind == "stream":
            body = json.dumps({**asked, "stream": True}).encode()
            reply = await self.timed(kind, "POST", "/v1/generate", body)
            if reply and reply[0] == 200 and b"[DONE]" in reply[1]:
                lines = [line for line in reply[1].decode().split("\n") if line]
                events = [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]
                said = "".join(event.get("text", "") for event in events)
                failed = any("error" in event for event in events)
                self.check(kind, name, failed or said == text_wanted, (said, text_wanted))
            elif reply and reply[0] == 200 and time.monotonic() < self.killed_at:
                self.check(kind, name, False, reply[1])
        elif kind in ("slow", "cancel"):
            await self.leave(kind, json.dumps({**asked, "stream": kind == "slow"}).encode())
        elif kind == "bad":
            body = rng.choice([b"{", b"[]", b"\xff\xfe", b'{"inputs": 3}', b'{"inputs": []}'])
            reply = await self.timed(kind, "POST", "/v1/generate", body)
            refused = reply is None or reply[0] in (400, 422, 429, 503)
            self.check(kind, name, refused, reply)
        elif kind == "large":
            reply = await self.timed(kind, "POST", "/v1/generate", b"x" * (MOST_BODY + 1))
            self.check(kind, name, reply is None or reply[0] in (413, 429, 503), reply)
        else:
            body = json.dumps({"prompt": "nobody", "inputs": [text]}).encode()
            reply = await self.timed(kind, "POST", "/v1/generate", body)
            self.check(kind, name, reply is None or reply[0] in (404, 429, 503), reply)
        if kind in ("generate", "rank", "stream") and reply and reply[0] != 200:
            expected = reply[0] in (429, 503) or (reply[0] == 404 and name in self.absent)
            self.check(kind, name, expected, reply)

    async def leave(self, kind: str, body: bytes) -> None:
        """A client that goes away, or reads a stream a byte at a time."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            head = f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            for _ in range(20 if kind == "slow" else 1):
                await asyncio.sleep(0.05)
                if kind == "slow":
                    await asyncio.wait_for(reader.read(1), 1)
            writer.close()
        except (TimeoutError, OSError):
            pass
        self.statuses[f"{kind} left"] += 1

    async def client(self, seed: int, until: float) -> None:
        rng = random.Random(seed)
        while time.monotonic() < until:
            await self.ask(rng)

    async def admin(self, until: float) -> None:
        """Unloads and loads prompts again; the name of one that is away may be answered by 404."""
        rng, head = random.Random(99), "Authorization: Bearer chief\r\n"
        while time.monotonic() < until:
            name = rng.choice(self.names)
            self.absent.add(name)
            await self.timed("unload", "DELETE", f"/v1/prompts/{name}", b"", head)
            body = json.dumps({"source": name}).encode()
            reply = None
            while not (reply and reply[0] == 200) and time.monotonic() < until + 30:
                reply = await self.timed("load", "PUT", f"/v1/prompts/{name}", body, head)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # replies that were on their way
            self.absent.discard(name)

    async def watch(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                status = Path(f"/proc/{self.server.pid}/status").read_text()
                pages = next(line for line in status.split("\n") if line.startswith("VmRSS"))
                self.memory.append((time.monotonic(), int(pages.split()[1])))
            except (OSError, StopIteration):
                pass
            await asyncio.sleep(1)

    async def run(self, minutes: float, kill_at: float) -> None:
        self.start()
        await self.ready()
        began = time.monotonic()
        until = began + 60 * minutes

        async def kill() -> None:
            await asyncio.sleep(60 * minutes * kill_at)
            self.killed_at, self.up_at = time.monotonic(), float("inf")
            self.server.kill()
            self.server.wait()
            self.start()
            await self.ready()

        tasks = [self.client(n, until) for n in range(self.clients)]
        await asyncio.gather(*tasks, self.admin(until), self.watch(until), kill())
        self.server.send_signal(signal.SIGTERM)
        self.code = self.server.wait(timeout=TIMEOUT + 30)

    def report(self) -> dict[str, Any]:
        after = [kib for at, kib in self.memory if at > self.up_at]
        tenths = [int(np.median(part)) for part in np.array_split(after, 10) if len(part)]
        good = self.seconds or [0.0]
        return {
            "wrong": len(self.wrong),
            "wrong_first": self.wrong[:3],
            "without_reply": len(self.lost),
            "without_reply_first": self.lost[:3],
            "replies": dict(sorted(self.statuses.items())),
            "longest_seconds": round(self.longest, 2),
            "p50_seconds": round(float(np.percentile(good, 50)), 3),
            "p99_seconds": round(float(np.percentile(good, 99)), 3),
            "resident_kib_by_tenth": tenths,
            "exit_code": self.code,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kill_at", type=float, default=0.5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        soak = Soak(Path(temporary), asked.prompts, asked.clients)
        soak.prepare()
        try:
            asyncio.run(soak.run(asked.minutes, asked.kill_at))
        finally:
            soak.server.kill()
            log = (Path(temporary) / "log").read_text().splitlines()
            errors = [line for line in log if '"level": "error"' in line]
        print(json.dumps({**soak.report(), "errors_in_log": errors[:3]}))
        if soak.wrong or soak.lost:
            sys.exit(1)


if __name__ == "__main__":
    main()
