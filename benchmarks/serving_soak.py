"""A server under all at once: does every request get its right reply, an error, or a closed door?

    python benchmarks/serving_soak.py [--minutes=2] [--prompts=100] [--clients=16] [--kill_at=0.4]

Starts `prompt-jax serve` for nano with prompts of every kind and a `--prompt_root`, keeps it
saturated, and meanwhile loads prompts (from the root, and by upload) and unloads them, cancels
requests, reads streams and sends bodies slowly, and sends what is malformed, too large, late, or of
an unknown prompt. At `--kill_at` of the time the server is killed with SIGKILL and started again;
the time until it is ready does not count. Every reply is compared with that of a `pj.Engine` that
has this prompt alone: text and choice are the same, scores agree to `--tolerance`. Ends with
SIGTERM, after which the server must exit with 0.

Prints a line of JSON, and exits with 1 where something in it is not as it must be: replies by
status; wrong replies, and requests without any reply that were not open at the kill (none of
both; a connection may be closed on a body that is too large or no HTTP); the longest that was
waited for; p50 and p99 of good replies; the largest difference of a score; and the resident memory
in each tenth of the time after the restart, which may grow by 3 % from the second to the last.
"""

import argparse
import asyncio
import collections
import json
import math
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from serving_prompts import methods, prompt_of

from prompt_jax.backbone.load import load_backbone
from prompt_jax.prompt.artefact import save_prompt
from prompt_jax.serve.engine import Engine

TIMEOUT, MAX_TOKENS, MOST_BODY, SLOTS = 60.0, 8, 65_536, 8
GRACE = 15.0  # seconds after its deadline in which a request must have ended
FLAT = 0.03  # what resident memory may grow by
ADMIN = "Authorization: Bearer chief\r\n"
CHOICES = ["good", "bad", "neither of them"]
TEXTS = ["a moving and funny film", "who wrote it?", "the striker scored", "", "one two three four"]
# What clients do, and how often.
DEEDS = {
    "generate": 8.0,
    "several": 3.0,
    "rank": 4.0,
    "embed": 1.0,
    "completion": 1.0,
    "stream": 3.0,
    "slow_reader": 0.5,
    "slow_writer": 0.5,
    "cancel": 1.0,
    "late": 0.5,
    "bad": 1.0,
    "no_http": 0.3,
    "large": 0.3,
    "unknown": 0.5,
}


class Pauses(NamedTuple):
    """Seconds between the pieces of 64 bytes that a client writes, or reads."""

    write: float = 0.0
    read: float = 0.0


NO_PAUSES = Pauses()


class Wanted(NamedTuple):
    """What a prompt alone makes of a text."""

    text: str
    score: float
    ranked: dict[str, float]
    embedding: np.ndarray


class Soak:
    def __init__(self, folder: Path, prompts: int, clients: int, tolerance: float):
        self.folder, self.clients, self.tolerance = folder, clients, tolerance
        self.names = [f"p{n}" for n in range(prompts)]
        self.absent: set[str] = set()  # being loaded or unloaded: 404 is right for them
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.seconds: list[float] = []
        self.memory: list[tuple[float, int]] = []
        self.longest, self.until = 0.0, 0.0
        self.killed_at, self.up_at = 0.0, 0.0  # up_at is infinite until it listens again
        self.difference = 0.0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def prepare(self) -> None:
        """Writes the prompts, and asks an engine of each alone what the server must say."""
        backbone = load_backbone("nano", "float32")
        (self.folder / "admin").write_text("chief\n")
        self.wanted: dict[tuple[str, str], Wanted] = {}
        options: dict[str, Any] = {"input_length": 32, "max_tokens": MAX_TOKENS}
        kinds = list(methods(5))
        for n, name in enumerate(self.names):
            prompt = prompt_of(backbone, kinds[n % len(kinds)], n, 5 + n % 12, noise=0.3)
            path = self.folder / "root" / name
            save_prompt(path, prompt.arrays, prompt.manifest)
            with Engine(backbone, {name: str(path)}, 1, **options) as engine:
                written = engine.generate(TEXTS, name)
                ranked = engine.rank(TEXTS, CHOICES, name)
                vectors = engine.embed(TEXTS, name)
            for text, output, ranking, vector in zip(TEXTS, written, ranked, vectors, strict=True):
                self.wanted[name, text] = Wanted(output.text, output.score, ranking.scores, vector)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "prompt_jax",
            "serve",
            "--backbone=nano",
            "--dtype=float32",
            f"--port={self.port}",
            f"--slots={SLOTS}",
            "--input_length=32",
            f"--max_tokens={MAX_TOKENS}",
            f"--prompt_root={self.folder / 'root'}",
            f"--admin_tokens={self.folder / 'admin'}",
            f"--timeout={TIMEOUT}",
            f"--max_body={MOST_BODY}",
            "--queue=16",
            "--max_requests=24",
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

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        head: str = "",
        pauses: Pauses = NO_PAUSES,
    ) -> tuple[int, bytes]:
        """(status, body) over a connection of its own; with pauses, 64 bytes at a time."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            start = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}"
            data = f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body
            reply = b""
            async with asyncio.timeout(TIMEOUT + GRACE):
                step = 64 if pauses.write else len(data)
                for at in range(0, len(data), step):
                    writer.write(data[at : at + step])
                    await writer.drain()
                    await asyncio.sleep(pauses.write)
                while more := await reader.read(64 if pauses.read else 1 << 16):
                    reply += more
                    await asyncio.sleep(pauses.read)
        finally:
            writer.close()
        if not reply:
            raise ConnectionResetError("closed without a reply")
        first, _, rest = reply.partition(b"\r\n")
        head_bytes, _, content = rest.partition(b"\r\n\r\n")
        if b"chunked" in head_bytes.lower():
            content = b"".join(content.split(b"\r\n")[1::2])
        return int(first.split()[1]), content

    async def timed(
        self,
        what: str,
        method: str,
        path: str,
        body: bytes = b"",
        head: str = "",
        pauses: Pauses = NO_PAUSES,
    ) -> tuple[int, bytes] | None:
        """`call`, counted; None where no reply came."""
        began = time.monotonic()
        try:
            status, content = await self.call(method, path, body, head, pauses)
        except (TimeoutError, OSError, ValueError, IndexError) as error:
            self.statuses[f"{what} closed"] += 1
            shut = isinstance(error, ConnectionError) and what in ("large", "no_http")
            if not shut and not self.open_at_kill(began):
                self.lost.append(f"{what}: {type(error).__name__} {error}")
            return None
        took = time.monotonic() - began
        self.longest = max(self.longest, took)
        self.statuses[f"{what} {status}"] += 1
        if status == 200 and pauses == NO_PAUSES:
            self.seconds.append(took)
        return status, content

    def open_at_kill(self, began: float) -> bool:
        """Whether a request that began then may be lost: it was open at the kill, or came while
        nothing listened."""
        return self.killed_at <= time.monotonic() and bool(self.killed_at) and began <= self.up_at

    def check(self, what: str, name: str, good: bool, facts: object) -> None:
        if not good:
            self.wrong.append(f"{what} {name}: {str(facts)[:200]}")

    def near(self, score: float, wanted: float) -> bool:
        self.difference = max(self.difference, abs(score - wanted))
        return abs(score - wanted) <= self.tolerance

    async def ask(self, rng: random.Random) -> None:
        """One of the things that clients do."""
        kind = rng.choices(list(DEEDS), list(DEEDS.values()))[0]
        count = rng.randint(2, 4) if kind == "several" else 1
        names, texts = rng.choices(self.names, k=count), rng.choices(TEXTS, k=count)
        wanted = [self.wanted[pair] for pair in zip(names, texts, strict=True)]
        asked: dict[str, Any] = {"prompt": names if count > 1 else names[0], "inputs": texts}
        slow = Pauses(write=0.1 * (kind == "slow_writer"), read=0.05 * (kind == "slow_reader"))
        if kind in ("generate", "several", "slow_writer"):
            if outputs := await self.outputs(kind, "/v1/generate", asked, names, pauses=slow):
                for name, output, want in zip(names, outputs, wanted, strict=True):
                    same = output["text"] == want.text and self.near(output["score"], want.score)
                    self.check(kind, name, same, (output, want))
        elif kind == "rank":
            asked["choices"] = CHOICES
            for output in await self.outputs(kind, "/v1/rank", asked, names) or ():
                scores = wanted[0].ranked
                same = output["choice"] == max(scores, key=scores.__getitem__)
                same &= all(self.near(output["scores"][c], s) for c, s in scores.items())
                self.check(kind, names[0], same, (output, wanted[0]))
        elif kind == "embed":
            for output in await self.outputs(kind, "/v1/embed", asked, names) or ():
                vector = wanted[0].embedding
                same = np.allclose(output["embedding"], vector, rtol=1e-3, atol=1e-4)
                self.check(kind, names[0], same, (output, vector))
        elif kind == "completion":
            body = {"model": names[0], "prompt": texts[0], "max_tokens": MAX_TOKENS}
            choices = await self.outputs(kind, "/v1/completions", body, names, key="choices")
            for choice in choices or ():
                self.check(kind, names[0], choice["text"] == wanted[0].text, (choice, wanted[0]))
        elif kind in ("stream", "slow_reader"):
            await self.stream(kind, asked, names, wanted[0], slow)
        elif kind == "cancel":
            await self.leave(json.dumps(asked).encode())
        else:
            await self.misuse(kind, rng, asked)

    async def outputs(
        self,
        kind: str,
        path: str,
        asked: dict[str, Any],
        names: list[str],
        key: str = "outputs",
        pauses: Pauses = NO_PAUSES,
    ) -> list[Any] | None:
        """The outputs of a good answer; None after one that was refused, for a good reason."""
        reply = await self.timed(kind, "POST", path, json.dumps(asked).encode(), pauses=pauses)
        if reply is None or reply[0] != 200:
            self.refused(kind, names, reply)
            return None
        return json.loads(reply[1])[key]

    def refused(self, kind: str, names: list[str], reply: tuple[int, bytes] | None) -> None:
        missing = reply is not None and reply[0] == 404 and bool(self.absent & set(names))
        self.check(kind, names[0], reply is None or reply[0] in (429, 503) or missing, reply)

    async def stream(
        self, kind: str, asked: dict[str, Any], names: list[str], wanted: Wanted, pauses: Pauses
    ) -> None:
        body = json.dumps({**asked, "stream": True}).encode()
        reply = await self.timed(kind, "POST", "/v1/generate", body, pauses=pauses)
        if reply is None or reply[0] != 200:
            self.refused(kind, names, reply)
            return
        lines = [line for line in reply[1].decode().split("\n") if line]
        whole = lines[-1:] == ["data: [DONE]"]
        if not whole and self.killed_at <= time.monotonic() and self.killed_at:
            return  # cut off by the kill, as far as can be said
        events = [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]
        if any(event.get("error", {}).get("type") == "unavailable_error" for event in events):
            self.statuses[f"{kind} late"] += 1  # an answer that says so, as 503 does
            return
        text = "".join(event.get("text", "") for event in events)
        self.check(kind, names[0], whole and text == wanted.text, (reply[1], wanted))

    async def misuse(self, kind: str, rng: random.Random, asked: dict[str, Any]) -> None:
        """Requests that must be refused, or come too late to be answered."""
        body, right = json.dumps(asked).encode(), (400, 422)
        if kind == "late":
            body, right = json.dumps({**asked, "timeout": 1e-3}).encode(), (200, 404)
        elif kind == "bad":
            body = rng.choice([b"{", b"[]", b"\xff\xfe", b'{"inputs": 3}', b'{"inputs": []}'])
        elif kind == "large":
            body, right = b"x" * (MOST_BODY + 1), (413,)
        elif kind == "unknown":
            body, right = json.dumps({**asked, "prompt": "nobody"}).encode(), (404,)
        head = "no header\r\n" if kind == "no_http" else ""
        reply = await self.timed(kind, "POST", "/v1/generate", body, head)
        good = reply is None or reply[0] in (*right, 429, 503)
        self.check(kind, str(asked["prompt"]), good, reply)

    async def leave(self, body: bytes) -> None:
        """A client that goes away."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            head = f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
        except OSError:
            pass
        self.statuses["cancel left"] += 1

    @property
    def going_on(self) -> bool:
        return time.monotonic() < self.until or self.up_at == math.inf

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        while self.going_on:
            if self.up_at == math.inf and rng.random() < 0.9:
                await asyncio.sleep(0.5)  # few knock while nothing listens
            else:
                await self.ask(rng)

    async def admin(self) -> None:
        """Unloads and loads prompts again; the name of one that is away may be answered by 404."""
        rng = random.Random(99)
        while self.going_on:
            name = rng.choice(self.names)
            self.absent.add(name)
            await self.timed("unload", "DELETE", f"/v1/prompts/{name}", b"", ADMIN)
            reply = None
            while not (reply and reply[0] == 200) and (
                self.going_on or time.monotonic() < self.until + TIMEOUT
            ):
                reply = await self.put(name, upload=rng.random() < 0.5)
                await asyncio.sleep(0.05 if self.up_at < math.inf else 1.0)
            self.check("load", name, bool(reply) and reply[0] == 200, reply)
            await asyncio.sleep(0.5)  # replies that were on their way
            self.absent.discard(name)

    async def put(self, name: str, upload: bool) -> tuple[int, bytes] | None:
        if not upload:
            body = json.dumps({"source": name}).encode()
            return await self.timed("load", "PUT", f"/v1/prompts/{name}", body, ADMIN)
        body = b""
        for file in sorted((self.folder / "root" / name).iterdir()):
            disposition = f'form-data; name="{file.name}"; filename="{file.name}"'
            body += f"--edge\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
            body += file.read_bytes() + b"\r\n"
        head = f"{ADMIN}Content-Type: multipart/form-data; boundary=edge\r\n"
        return await self.timed(
            "upload", "PUT", f"/v1/prompts/{name}", body + b"--edge--\r\n", head
        )

    async def watch(self) -> None:
        while self.going_on:
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
        self.until = time.monotonic() + 60 * minutes

        async def kill() -> None:
            await asyncio.sleep(60 * minutes * kill_at)
            self.killed_at, self.up_at = time.monotonic(), math.inf
            self.server.kill()
            self.server.wait()
            self.start()
            await self.ready()
            self.until += self.up_at - self.killed_at

        tasks = [self.client(n) for n in range(self.clients)]
        await asyncio.gather(*tasks, self.admin(), self.watch(), kill())
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
            "good_replies": len(self.seconds),
            "longest_seconds": round(self.longest, 2),
            "p50_seconds": round(float(np.percentile(good, 50)), 3),
            "p99_seconds": round(float(np.percentile(good, 99)), 3),
            "largest_difference_of_a_score": self.difference,
            "resident_kib_by_tenth": tenths,
            "memory_growth": round(tenths[-1] / tenths[1] - 1, 4) if len(tenths) > 1 else 0.0,
            "exit_code": self.code,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kill_at", type=float, default=0.4)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--log", help="Where the server's log is copied to.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        soak = Soak(Path(temporary), asked.prompts, asked.clients, asked.tolerance)
        soak.prepare()
        try:
            asyncio.run(soak.run(asked.minutes, asked.kill_at))
        finally:
            soak.server.kill()
            log = (Path(temporary) / "log").read_text()
            if asked.log:
                Path(asked.log).write_text(log)
        errors = [line for line in log.splitlines() if '"level": "error"' in line]
        told = soak.report()
        print(json.dumps({**told, "errors_in_log": errors[:3]}))
        flat = told["memory_growth"] <= FLAT
        if soak.wrong or soak.lost or errors or soak.code or not flat:
            sys.exit(1)


if __name__ == "__main__":
    main()
