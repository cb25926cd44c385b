"""Folders as runs leave them, written by hand: for what reads runs and trains nothing."""

import json
import math
import random
from pathlib import Path
from typing import Any

LABELS = ("joy", "fear", "anger")
CONFIG = """# Parameters for Train:
BACKBONE = 'nano'
SEED = {seed}
TRAIN_STEPS = 60
Train.method = @{method}()
Train.optimizer = \\
    @Adafactor()
"""


def write_run(folder: Path, seed: int = 0, method: str = "SoftPrompt", gain: float = 20.0) -> Path:
    """A run of sixty steps on a task of three labels; its accuracy ends near 40 + `gain`."""
    rng = random.Random(f"{seed} {method}")
    records: list[dict[str, Any]] = []
    for step in range(0, 61, 5):
        if step:
            records.append(train_record(step, rng))
        if step % 20 == 0:
            accuracy = 40 + gain * (1 - math.exp(-step / 20)) + rng.uniform(-4, 4)
            records.append(
                {
                    "step": step,
                    "kind": "eval",
                    "task": "moods",
                    "split": "validation",
                    "accuracy": accuracy,
                    "not_a_label": 40 * math.exp(-step / 8),
                    "seconds": 1.5,
                }
            )
    folder.mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "config.gin").write_text(CONFIG.format(seed=seed, method=method))
    best = max((r for r in records if r["kind"] == "eval"), key=lambda r: r["accuracy"])
    write_manifest(folder, seed, method, best["step"])
    write_predictions(folder, best, rng)
    facts = {
        "commands": [f"prompt-jax train --gin_file=a.gin --model_dir={folder.name}"],
        "lengths": {"moods": {"examples": 120, **{side: SPREAD for side in ("inputs", "targets")}}},
        "prompt": PROMPT,
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder


SPREAD = {"percentiles": [9, 30, 64], "limit": 64, "truncated": 3}
PROMPT = {
    "compared_pieces": 5000,
    "norms_of_pieces": {"5 %": 1.0, "50 %": 2.0, "95 %": 3.0},
    "sides": {
        "encoder": {
            "rows": [
                {
                    "norm": 2.5,
                    "cosine": [["▁feel", 0.41], ["▁mood", 0.33]],
                    "euclid": [["▁the", 2.41], ["<s>", 3.3]],
                }
            ]
            * 4,
            "mean_cosine_of_rows": 0.12,
        }
    },
    "drift": {"encoder": {"distance": 1.5, "relative": 0.75, "cosine": 0.6}},
}


def train_record(step: int, rng: random.Random) -> dict[str, Any]:
    loss = 0.4 + 3 * math.exp(-step / 15) + rng.uniform(0, 0.2)
    return {
        "step": step,
        "kind": "train",
        "loss": 64 * loss,
        "loss_per_token": loss,
        "tokens": 64.0,
        "accuracy": 1 - loss / 4,
        "grad_norm": 2 * loss,
        "trainable_norm": 10 + step / 9,
        "examples": 16.0,
        "seconds_per_step": 0.2,
        "examples_per_second": 80.0,
        "tokens_per_second": 900 + rng.uniform(0, 99),
        "model_flops_utilisation": 0.21,
        "input_share": 0.01,
        "compile_seconds": 12.0 if step == 5 else 0.0,
        "host_peak_bytes": 1.4e9,
    }


def write_manifest(folder: Path, seed: int, method: str, step: int) -> None:
    selection = {"metric": "accuracy", "direction": "max"}
    selection |= {"task": "moods", "split": "validation"}
    manifest = {"method": method, "task": "moods", "seed": seed, "step": step}
    manifest |= {"backbone": {"name": "nano", "digest": "0" * 64}, "selection": selection}
    (folder / "prompt" / "best").mkdir(parents=True)
    (folder / "prompt" / "best" / "manifest.json").write_text(json.dumps(manifest))


def write_predictions(folder: Path, record: dict[str, Any], rng: random.Random) -> None:
    rows = []
    for n in range(120):
        wanted = LABELS[n % 3]
        said = (
            wanted if rng.uniform(0, 100) < record["accuracy"] else rng.choice((*LABELS, "dunno"))
        )
        text = f"</script><b>example {n}</b> of a text that says how somebody feels"
        rows.append(
            {
                "task": "moods",
                "inputs": text,
                "targets": wanted,
                "prediction": said,
                "score": -rng.random(),
            }
        )
    (folder / "predictions").mkdir()
    path = folder / "predictions" / f"step_{record['step']}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_seeds(folder: Path, method: str, gain: float) -> Path:
    for seed in range(3):
        write_run(folder / f"seed_{seed}", seed, method, gain)
    return folder
