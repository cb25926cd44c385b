"""Time and peak memory of loading a backbone, against transformers on the same files.

    python benchmarks/load_memory.py --size=t5_1_1_xl --folder=/tmp/xl     # 5.7 GB in bfloat16
    python benchmarks/load_memory.py --size=t5_1_1_base --folder=/tmp/base

Writes a transformers folder of random weights (kept for the next time), then loads it in one fresh
process each: ours hashing (the first time), ours with the digest remembered, and transformers.
Every value is in memory at the end: transformers' lazily mapped ones are touched. Numbers are in MB
(1e6 bytes); "beside" is the peak above what was there before loading and above the weights kept, in
units of the largest array (ours: all layers of a kind are one). Files are read once beforehand, so
that all find them in the page cache as far as it goes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

ROLES = ("ours, hashing", "ours", "transformers")


def generate(folder: Path, size: str, dtype: str) -> None:
    """A folder of random weights, one array in memory at a time, two GiB per file."""
    from prompt_jax import sizes, weights
    from prompt_jax.checkpoint import Box, Checkpoint, LazyArrays, Stored
    from prompt_jax.checkpoint.write import write_hf

    config = sizes.SIZES[size]
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    noise = np.random.default_rng(0).normal(size=1 << 20, scale=0.05).astype(kind)

    def read(box: Box) -> np.ndarray:
        shape = [part.stop - part.start for part in box]
        return np.resize(noise, shape)

    shapes = weights.t5x_shapes(config).items()
    arrays = LazyArrays({name: Stored(shape, kind, read) for name, shape in shapes})
    write_hf(str(folder), Checkpoint(config, arrays, None))


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(role: str, folder: str, dtype: str) -> dict[str, float]:
    load = _transformers if role == "transformers" else _ours
    run = load(folder, dtype)  # imports and starts what it needs
    before, began = resident(), time.perf_counter()
    kept, largest = run()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    beside = (peak - before - kept / 1e6) / (largest / 1e6)
    return {"seconds": seconds, "peak_MB": peak - before, "weights_MB": kept / 1e6,
            "beside": beside}  # fmt: skip


def _ours(folder: str, dtype: str):
    import jax
    from flax import nnx

    from prompt_jax.backbone import load_backbone

    jax.block_until_ready(jax.numpy.zeros(8) + 1)

    def run() -> tuple[int, int]:
        model = load_backbone(f"hf:{folder}", dtype).model
        arrays = jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
        return sum(a.nbytes for a in arrays), max(a.nbytes for a in arrays)

    return run


def _transformers(folder: str, dtype: str):
    import torch
    from transformers import T5ForConditionalGeneration

    def run() -> tuple[int, int]:
        kind = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
        model = T5ForConditionalGeneration.from_pretrained(folder, dtype=kind)
        tensors = {p.data_ptr(): p for p in model.parameters()}.values()
        for tensor in tensors:
            tensor.detach().view(torch.int16).amax()
        sizes = [t.numel() * t.element_size() for t in tensors]
        return sum(sizes), max(sizes)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--size", default="t5_1_1_xl")
    parser.add_argument("--stored", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--role", choices=ROLES)
    options = parser.parse_args()
    folder = Path(options.folder)
    if options.role:
        print(json.dumps(measure(options.role, options.folder, options.dtype)))
        return
    if not (folder / "config.json").exists():
        generate(folder, options.size, options.stored)
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            while file.read(64 << 20):
                pass
    cache = folder.parent / f"{folder.name}.digests"
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    rows = {}
    for role in ROLES:
        command = [sys.executable, __file__, f"--role={role}", f"--folder={folder}"]
        command += [f"--dtype={options.dtype}"]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        rows[role] = json.loads(done.stdout.splitlines()[-1])
        print(f"{role:14}", "  ".join(f"{k} {v:9.2f}" for k, v in rows[role].items()), flush=True)
    peer = rows["transformers"]
    for role in ROLES[:2]:
        told = ", ".join(f"{k} {rows[role][k] / peer[k]:.2f}" for k in ("seconds", "peak_MB"))
        print(f"{role} / transformers: {told}")


if __name__ == "__main__":
    main()
