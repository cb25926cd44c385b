"""Cached greedy decoding against transformers' `generate`: same weights, inputs and CPU.

    python benchmarks/decoding.py [--rows=16] [--json]

For nano, and for T5-small's shape with random weights, the backbone is written as a folder of
transformers, which reads it again. (The embeddings of the latter are made small, or else a T5 that
ties them to its logits only repeats its input.) Both answer the same rows of token ids, which must
agree one by one, and are timed in turns; the ratio is of the best times, ours over theirs in tokens
a second, and above 1 ours is the faster. Float32. Needs the extra `parity`. A minute on two CPU
cores; on a busy machine torch's threads wait for each other, and the ratio says nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.utils import logging

import prompt_jax as pj
from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats import files
from prompt_jax.backbone.load import read_arrays

BACKBONES = {"nano": "nano", "T5-small's shape": "random:t5_small?seed=0"}
EMBEDDING = "token_embedder/embedding"
COLUMNS, TOKENS, ROUNDS = 64, 32, 5


def source(name: str, folder: Path) -> str:
    """The backbone that is compared: nano as it is, random weights with small embeddings."""
    if not name.startswith("random:"):
        return name
    config, arrays = read_arrays(name)
    arrays[EMBEDDING] = arrays[EMBEDDING] * np.float32(0.02)
    files.write(str(folder), config, arrays, None)
    return f"files:{folder}"


def questions(vocab_size: int, rows: int) -> np.ndarray:
    """int32 [rows, COLUMNS]: ids of unequal lengths that end in EOS, 0 behind."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, vocab_size - 128, (rows, COLUMNS)).astype(np.int32)
    for row, length in zip(ids, rng.integers(COLUMNS // 2, COLUMNS + 1, rows), strict=True):
        row[length - 1 :] = 0
        row[length - 1] = 1
    return ids


def theirs(model: Any, ids: np.ndarray) -> np.ndarray:
    """int [rows, TOKENS]: what transformers generates after the start token, 0 after EOS."""
    tokens = torch.tensor(ids).long()
    options = {"max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1, "use_cache": True}
    with torch.inference_mode():
        said = model.generate(input_ids=tokens, attention_mask=(tokens > 0).long(), **options)
    said = said.numpy()[:, 1:]
    return np.pad(said, ((0, 0), (0, TOKENS - said.shape[1])))


def lengths(ids: np.ndarray) -> list[int]:
    """How many tokens each row has, EOS included."""
    return [row.tolist().index(1) + 1 if 1 in row else len(row) for row in ids]


def compare(name: str, rows: int) -> dict[str, float]:
    """Seconds of one call of each, and tokens a second; AssertionError where an id differs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary) / "hf")
        convert(source(name, Path(temporary) / "files"), "hf", folder)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
        backbone = pj.load_backbone(f"hf:{folder}", dtype="float32")
        ids = questions(backbone.config.vocab_size, rows)
        calls = {
            "ours": lambda: pj.generate(backbone, ids, max_length=TOKENS)[0][:, 0],
            "transformers": lambda: theirs(model, ids),
        }
        said, seconds = {}, {side: [] for side in calls}
        for turn in range(ROUNDS + 1):  # the first compiles
            for side, call in calls.items():
                began = time.perf_counter()
                said[side] = call()
                if turn:
                    seconds[side].append(time.perf_counter() - began)
        np.testing.assert_array_equal(said["ours"], said["transformers"])
        assert len(np.unique(said["ours"])) > rows, "outputs worth comparing"
        tokens = sum(lengths(said["ours"]))
    best = {side: min(values) for side, values in seconds.items()}
    speed = {f"{side}_tokens_per_second": tokens / best[side] for side in calls}
    return {"tokens": tokens, **speed, "ratio": best["transformers"] / best["ours"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    report = {name: compare(backbone, arguments.rows) for name, backbone in BACKBONES.items()}
    if arguments.json:
        print(json.dumps(report))
        return
    for name, facts in report.items():
        ours, peer = (facts[f"{side}_tokens_per_second"] for side in ("ours", "transformers"))
        print(
            f"{name:17s} ids equal ({facts['tokens']} tokens)   ours {ours:7.0f} tokens/s   "
            f"transformers {peer:7.0f} tokens/s   ratio {facts['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
