"""Serving many prompts: one engine that mixes them, against batching per prompt and PEFT.

    python benchmarks/serving.py [--backbone=random:t5_small?seed=0] [--requests=256]
      [--prompts=1,10,100,1000] [--rounds=3] [--output=docs/serving.jsonl]
    python benchmarks/serving.py --picture=docs/serving.svg --output=docs/serving.jsonl  # of these

Every request has 128 tokens in and 16 out and a prompt of 20 rows, drawn at random among those that
are resident; the engine has 32 slots. Measured, in turns, the best and all of `--rounds`:

  mixed          all requests at once: tokens written a second, p50 and p99 of a request from its
                 submission, and the same to its first token
  per_prompt     the requests of one prompt after those of another, on the same engine
  peft           transformers with PEFT, `set_adapter` for each prompt, its requests in one batch
  kinds          as mixed, of prefixes, LoRA, (IA)3 and plain rows
  one_batch      one prompt, batches of 8 and of 32 at once, against transformers' `generate`

`peft` and `one_batch` need the extra `parity` and load the engine's own weights. A pause lies in no
measurement: other work on the machine does, so ratios of one round are told, not seconds alone.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from serving_prompts import prompt_of

from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats import files
from prompt_jax.backbone.load import Backbone, load_backbone, read_arrays
from prompt_jax.export import peft as peft_folder
from prompt_jax.inspect.pictures import BLUE, STYLE
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.requests import Ask, Decoding

SLOTS, READ, WRITTEN, ROWS = 32, 128, 16, 20
KINDS = ["plain", "prefix", "lora", "ia3"]  # of `serving_prompts`
EMBEDDING = "token_embedder/embedding"
Request = tuple[str, np.ndarray]


def opened(name: str, folder: Path) -> Backbone:
    """The backbone in float32; of random weights with small embeddings, so that outputs differ."""
    if name.startswith("random:"):
        config, arrays = read_arrays(name)
        arrays[EMBEDDING] = arrays[EMBEDDING] * np.float32(0.02)
        files.write(str(folder / "files"), config, arrays, None)
        name = f"files:{folder / 'files'}"
    return load_backbone(name, "float32")


def requests_of(names: list[str], count: int, vocab_size: int) -> list[Request]:
    rng = np.random.default_rng(7)
    ids = rng.integers(3, vocab_size - 128, (count, READ)).astype(np.int32)
    ids[:, -1] = 1
    return [(names[rng.integers(len(names))], row) for row in ids]


def answer(engine: Engine, requests: list[Request]) -> list[Ask]:
    """All requests at once; each ask knows when it was asked, began to write, and was done."""
    asks = engine.asks([row for _, row in requests], [name for name, _ in requests])
    for ask in asks:
        ask.decoding = Decoding(WRITTEN)
        ask.on_done = lambda ask=ask: ended.__setitem__(id(ask), time.monotonic())
    ended: dict[int, float] = {}
    start = time.monotonic()
    engine.worker.feed(asks)
    for ask in asks:
        ask.wait()
    for ask in asks:
        ask.asked, ask.deadline = start, ended[id(ask)]
    return asks


def speed(asks: list[Ask]) -> dict[str, float]:
    """Tokens a second, and percentiles of seconds from the start."""
    whole = [float(ask.deadline or 0) - ask.asked for ask in asks]
    first = [float(ask.first or 0) - ask.asked for ask in asks]
    told = {"tokens_per_second": sum(len(ask.ids) for ask in asks) / max(whole)}
    for name, seconds in (("request", whole), ("first_token", first)):
        told[f"{name}_p50"] = float(np.percentile(seconds, 50))
        told[f"{name}_p99"] = float(np.percentile(seconds, 99))
    return told


def per_prompt(engine: Engine, requests: list[Request]) -> float:
    """Tokens a second where a batch has one prompt."""
    start, tokens = time.monotonic(), 0
    for name in dict.fromkeys(name for name, _ in requests):
        tokens += sum(len(a.ids) for a in answer(engine, [r for r in requests if r[0] == name]))
    return tokens / (time.monotonic() - start)


class Peft:
    """transformers with an adapter for each prompt, which is what PEFT offers for T5."""

    def __init__(self, folder: str, adapters: dict[str, Prompt], scratch: Path):
        import peft
        import torch
        from transformers import AutoModelForSeq2SeqLM

        self.torch = torch
        base = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.plain, self.model = base, None
        for name, prompt in adapters.items():
            path = scratch / name
            path.mkdir(parents=True)
            rows = prompt.array
            settings = {
                "peft_type": "PROMPT_TUNING",
                "task_type": "SEQ_2_SEQ_LM",
                "inference_mode": True,
                "num_virtual_tokens": len(rows),
                "num_transformer_submodules": 1,
                "token_dim": rows.shape[1],
                "prompt_tuning_init": "RANDOM",
                "num_layers": base.config.num_layers,
                "num_attention_heads": base.config.num_heads,
            }
            (path / peft_folder.CONFIG).write_text(json.dumps(settings))
            safetensors.numpy.save_file({peft_folder.KEY: rows}, path / peft_folder.WEIGHTS)
            if self.model is None:
                self.model = peft.PeftModel.from_pretrained(base, str(path), adapter_name=name)
            else:
                self.model.load_adapter(str(path), adapter_name=name)

    def generate(self, model: Any, rows: list[np.ndarray]) -> int:
        """Tokens written for a batch."""
        tokens = self.torch.tensor(np.stack(rows)).long()
        options = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False}
        with self.torch.inference_mode():
            said = model.generate(
                input_ids=tokens, attention_mask=self.torch.ones_like(tokens), **options
            )
        return said.shape[0] * WRITTEN

    def switching(self, requests: list[Request]) -> float:
        start, tokens = time.monotonic(), 0
        assert self.model is not None
        for name in dict.fromkeys(name for name, _ in requests):
            self.model.set_adapter(name)
            rows = [row for other, row in requests if other == name]
            for at in range(0, len(rows), SLOTS):
                tokens += self.generate(self.model, rows[at : at + SLOTS])
        return tokens / (time.monotonic() - start)

    def one_batch(self, rows: list[np.ndarray]) -> float:
        start = time.monotonic()
        return self.generate(self.plain, rows) / (time.monotonic() - start)


def one_batch(engine: Engine, rows: list[np.ndarray]) -> float:
    start = time.monotonic()
    asks = answer(engine, [(None, row) for row in rows])  # type: ignore[list-item]
    return sum(len(ask.ids) for ask in asks) / (time.monotonic() - start)


def engine_of(backbone: Backbone, kinds: list[str], count: int, slots: int = SLOTS):
    """An engine with so many prompts, and the bytes that each added to the process."""
    engine = Engine(backbone, {}, slots, input_length=READ, max_tokens=WRITTEN, queue_size=100_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    for n in range(count):
        engine.put(f"p{n}", prompt_of(backbone, kinds[n % len(kinds)], n, ROWS))
    loaded = time.monotonic() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    held = sum(facts["bytes"] for facts in engine.prompts().values())
    facts = {"bytes_per_prompt": held / count, "rss_per_prompt": grown / count}
    return engine, facts | {"load_seconds": loaded}


SHOWN = {
    "mixed 1": "1 prompt",
    "mixed 10": "10 prompts",
    "mixed 100": "100 prompts",
    "mixed 1000": "1,000 prompts",
    "kinds": "100 of four kinds",
    "per_prompt 100": "100, a batch for each",
}


def picture(lines: list[dict[str, Any]], path: str) -> None:
    """Tokens a second of this engine: a bar for the first round, a mark for each."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({**STYLE, "svg.hashsalt": "serving"})
    from matplotlib import pyplot as plt

    rounds: dict[str, list[float]] = {}
    for line in lines:
        if "round" in line and line["measured"] in SHOWN:
            rounds.setdefault(SHOWN[line["measured"]], []).append(line["tokens_per_second"])
    names = list(rounds)[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(names) + 1.2), layout="constrained")
    axes.barh(names, [rounds[name][0] for name in names], color=BLUE, alpha=0.35)
    for name in names:
        axes.plot(rounds[name], [name] * len(rounds[name]), "o", color=BLUE, markersize=4)
        axes.annotate(
            f"{rounds[name][0]:.3g}", (max(rounds[name]), name), (6, -3), textcoords="offset points"
        )
    axes.set(title="Tokens a second by prompts in memory", xlabel="tokens a second, each round")
    axes.set_xlim(0, 1.12 * max(max(values) for values in rounds.values()))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="random:t5_small?seed=0")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--prompts", default="1,10,100,1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output")
    parser.add_argument("--no-parity", action="store_true")
    parser.add_argument("--picture")
    asked = parser.parse_args()
    if asked.picture:
        text = Path(asked.output).read_text()
        picture([json.loads(line) for line in text.splitlines()], asked.picture)
        return
    lines: list[dict[str, Any]] = []

    def tell(**facts: Any) -> None:
        lines.append({"backbone": asked.backbone, "requests": asked.requests, **facts})
        print(json.dumps(lines[-1]), flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backbone = opened(asked.backbone, folder)
        counts = [int(count) for count in asked.prompts.split(",")]
        engines: dict[str, tuple[Engine, list[Request]]] = {}
        for label, kinds, count in [
            *((f"mixed {count}", ["plain"], count) for count in counts),
            ("kinds", KINDS, min(100, max(counts))),
        ]:
            engine, facts = engine_of(backbone, kinds, count)
            names = list(engine.prompts())
            requests = requests_of(names, asked.requests, backbone.config.vocab_size)
            answer(engine, requests[:SLOTS])  # compiles
            answer(engine, requests[:1])
            engines[label] = (engine, requests)
            tell(measured=label, **facts)
        runs: dict[str, Any] = {
            label: lambda pair=pair: speed(answer(*pair)) for label, pair in engines.items()
        }
        many = max(count for count in counts if count <= 100)
        pair = engines[f"mixed {many}"]
        runs[f"per_prompt {many}"] = lambda: {"tokens_per_second": per_prompt(*pair)}
        if not asked.no_parity:
            convert(backbone.name, "hf", str(folder / "hf"))
            adapters = {
                name: prompt_of(backbone, "plain", n, ROWS)
                for n, name in enumerate(pair[0].prompts())
            }
            peer = Peft(str(folder / "hf"), adapters, folder / "adapters")
            runs[f"peft {many}"] = lambda: {"tokens_per_second": peer.switching(pair[1])}
            for size in (8, 32):
                rows = [row for _, row in pair[1][:size]]
                runs[f"one_batch {size}"] = lambda rows=rows: {
                    "tokens_per_second": one_batch(pair[0], rows)
                }
                runs[f"transformers {size}"] = lambda rows=rows: {
                    "tokens_per_second": peer.one_batch(rows)
                }
        found: dict[str, list[dict[str, float]]] = {label: [] for label in runs}
        for number in range(asked.rounds):
            for label, run in runs.items():
                found[label].append(run())
                tell(measured=label, round=number, **found[label][-1])
        for over, under in [
            (f"mixed {many}", f"per_prompt {many}"),
            (f"mixed {many}", f"peft {many}"),
            (f"mixed {max(counts)}", f"mixed {min(counts)}"),
            ("kinds", f"mixed {many}"),
            ("one_batch 8", "transformers 8"),
            ("one_batch 32", "transformers 32"),
        ]:
            if over in found and under in found and over != under:
                ratios = [
                    a["tokens_per_second"] / b["tokens_per_second"]
                    for a, b in zip(found[over], found[under], strict=True)
                ]
                tell(ratio=f"{over} / {under}", median=statistics.median(ratios), rounds=ratios)
        for engine, _ in engines.values():
            engine.close()
    if asked.output:
        Path(asked.output).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
