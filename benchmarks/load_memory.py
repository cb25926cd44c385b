"""Time, peak memory and bytes read of loading a backbone, against transformers on the same files.

    python benchmarks/load_memory.py --folder=/tmp/xl                  # 2.8 B parameters, 5.7 GB
    python benchmarks/load_memory.py --size=t5_1_1_base --folder=/tmp/base
    python benchmarks/load_memory.py --folder=/tmp/xl --quantised      # and an int8 copy of it

Writes a transformers folder of random bfloat16 in shards (kept for the next time; one array is in
memory at a time), then loads it, each time in fresh processes:

  ours, hashing   the first time: the digest is computed and remembered
  ours            every other time
  4 devices       ours, in one process with four devices, weights sharded over them (fsdp)
  4 processes     ours, in four processes of one device each; the numbers are of the last of them
  transformers    `from_pretrained`, in the same precision; what it maps lazily is touched
  int8 copy       with --quantised: what `convert --weights_dtype=int8` made of it

A CPU's device memory is the host's. What a process keeps is therefore taken away: `beside` is the
peak above what was there before loading and above the shards kept (`kept`), in units of the largest
tensor of the file and, in brackets, of the largest kind (all layers of one: our model's arrays).
`read` is what the process read, by the kernel's count (/proc/self/io), `(cpu)` the seconds that its
threads were busy, which other work on the machine changes less. MB are 1e6 bytes. Files are read
once beforehand, so that all find them in the page cache as far as it goes.

t5_1_1_xl (largest tensor 132 MB, largest kind 503 MB), two cores that other work kept busy too, so
that seconds say little; the rows come from several runs:

                 (cpu)  peak MB  kept MB  read MB  beside (kind)
  ours, hashing            5848     5700     5700    1.13 (0.29)
  ours            19.5     5850     5700     5700    1.14 (0.30)
  4 devices                5850     5701     5700    1.13 (0.30)
  4 processes              1451     1425     1425    0.19 (0.05)
  transformers     4.8     5712     5700        0    0.10 (0.10)
  int8 copy       11.5     3162     2921     2682    1.84 (0.96)

Ours / transformers: 4.1 times the work, 1.02 of its peak. transformers maps the file and keeps what
it maps; ours reads it and turns every kernel round, as T5X has them. Of the int8 copy's 241 MB
beside the model about 110 are there whatever the size (TensorStore); it was not yet in chunks.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

PARTS = 4
ROLES = ("ours, hashing", "ours", f"{PARTS} devices", f"{PARTS} processes", "transformers")
COPY = "int8 copy"


def generate(folder: Path, size: str) -> None:
    """A folder of random weights, one array in memory at a time, two GiB per file."""
    from prompt_jax.backbone import weights
    from prompt_jax.backbone.formats import Box, Checkpoint, LazyArrays, Stored
    from prompt_jax.backbone.formats.write import write_hf
    from prompt_jax.model import sizes

    config, kind = sizes.SIZES[size], np.dtype(ml_dtypes.bfloat16)
    noise = np.random.default_rng(0).normal(size=1 << 20, scale=0.05).astype(kind)

    def read(box: Box) -> np.ndarray:
        return np.resize(noise, [part.stop - part.start for part in box])

    shapes = weights.t5x_shapes(config).items()
    arrays = LazyArrays({name: Stored(shape, kind, read) for name, shape in shapes})
    write_hf(str(folder), Checkpoint(config, arrays, None))


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS, now, or VmHWM, at most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{which}:")[2].split()[0])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def bytes_read() -> int:
    line = Path("/proc/self/io").read_text().splitlines()[0]
    return int(line.removeprefix("rchar: "))


def measure(role: str, backbone: str) -> dict[str, float]:
    """Loads in this process; `run` is timed, what it needs is imported and started before."""
    load = _transformers if role == "transformers" else _ours
    run = load(backbone)
    forget_peak()
    before, read = resident("VmRSS"), bytes_read()
    began, busy = time.perf_counter(), time.process_time()
    kept, tensor, kind = run()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak = resident("VmHWM") - before
    return {
        "seconds": seconds,
        "cpu": busy,
        "peak_MB": peak / 1e6,
        "kept_MB": kept / 1e6,
        "read_MB": (bytes_read() - read) / 1e6,
        "beside": (peak - kept) / tensor,
        "beside_kind": (peak - kept) / kind,
    }


def _ours(backbone: str):
    import jax
    from flax import nnx

    from prompt_jax.backbone.load import load_backbone
    from prompt_jax.model import sharding

    if "PROCESS" in os.environ:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(os.environ["AT"], PARTS, int(os.environ["PROCESS"]))
    mesh = sharding.MeshShape(data=1, fsdp=jax.device_count()).build()
    jax.block_until_ready(jax.numpy.zeros(8) + 1)

    def run() -> tuple[int, int, int]:
        model = load_backbone(backbone, mesh=mesh).model
        arrays = jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
        kept = sum(shard.data.nbytes for a in arrays for shard in a.addressable_shards)
        tensor = max(a.nbytes // (a.shape[0] if a.ndim == 3 else 1) for a in arrays)
        return kept, tensor, max(a.nbytes for a in arrays)

    return run


def _transformers(backbone: str):
    import torch
    from transformers import T5ForConditionalGeneration

    def run() -> tuple[int, int, int]:
        folder = backbone.removeprefix("hf:")
        model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
        tensors = {p.data_ptr(): p for p in model.parameters()}.values()
        for tensor in tensors:
            tensor.detach().view(torch.int16).amax()
        sizes = [t.numel() * t.element_size() for t in tensors]
        return sum(sizes), max(sizes), max(sizes)

    return run


def alone(role: str, backbone: str, cache: str) -> dict[str, float]:
    """`measure` in a fresh process, or in PARTS of them at once."""
    command = [sys.executable, __file__, f"--role={role}", f"--folder={backbone}"]
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "JAX_PLATFORMS": "cpu"}
    if role == f"{PARTS} devices":
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={PARTS}"
    each = [environment]
    if role == f"{PARTS} processes":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            at = f"127.0.0.1:{probe.getsockname()[1]}"
        each = [{**environment, "AT": at, "PROCESS": str(i)} for i in range(PARTS)]
    started = [subprocess.Popen(command, env=e, stdout=subprocess.PIPE, text=True) for e in each]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{role}: failed")
    return json.loads(said[-1].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--size", default="t5_1_1_xl")
    parser.add_argument("--quantised", action="store_true")
    parser.add_argument("--role", choices=[*ROLES, COPY], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps(measure(options.role, options.folder)))
        return
    folder = Path(options.folder)
    if not (folder / "config.json").exists():
        generate(folder, options.size)
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            while file.read(64 << 20):
                pass
    cache = folder.parent / f"{folder.name}.digests"
    shutil.rmtree(cache, ignore_errors=True)
    backbones = {role: f"hf:{folder}" for role in ROLES}
    if options.quantised:
        from prompt_jax.backbone.convert import convert

        copy = folder.parent / f"{folder.name}.int8"
        if not copy.exists():
            convert(f"hf:{folder}", "orbax", str(copy), "int8")
        backbones[COPY] = f"orbax:{copy}"
        alone(COPY, backbones[COPY], str(cache))  # its digest is remembered from here on
    rows = {}
    print(f"{'':14} seconds   (cpu)  peak MB  kept MB  read MB  beside (kind)")
    for role, backbone in backbones.items():
        row = rows[role] = alone(role, backbone, str(cache))
        print(
            f"{role:14} {row['seconds']:7.1f} {row['cpu']:7.1f} {row['peak_MB']:8.0f} "
            f"{row['kept_MB']:8.0f} {row['read_MB']:8.0f} {row['beside']:7.2f} "
            f"({row['beside_kind']:.2f})",
            flush=True,
        )
    peer = rows["transformers"]
    for role in ("ours, hashing", "ours"):
        ratios = {key: rows[role][key] / peer[key] for key in ("seconds", "cpu", "peak_MB")}
        told = ", ".join(f"{key} {ratio:.2f}" for key, ratio in ratios.items())
        print(f"{role} / transformers: {told}")


if __name__ == "__main__":
    main()
