"""A run whose model_dir is a bucket: an emulator of Google Cloud Storage on loopback."""

import json
import os
import socket
import subprocess
import sys

import pytest

from prompt_jax.backbone.formats.store import Store


@pytest.mark.slow
def test_a_run_in_a_bucket_resumes_and_ends_in_the_local_bytes(tiny, tmp_path, monkeypatch):
    """epath goes by gcsfs here, because TensorFlow's own client knows no emulator."""
    from gcp_storage_emulator.server import create_server

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anyone")
    by_gcsfs = {
        "STORAGE_EMULATOR_HOST": url,
        "EPATH_USE_TF": "0",
        "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }

    def train(model_dir: str, steps: int) -> None:
        argv = [f"--gin_file={tiny}/run.gin", f"--model_dir={model_dir}"]
        argv.append(f"--gin.TRAIN_STEPS={steps}")
        program = [sys.executable, "-m", "prompt_jax", "train", *argv]
        done = subprocess.run(program, env={**os.environ, **by_gcsfs}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]

    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="tiny-runs")
    server.start()
    try:
        train("gs://tiny-runs/run", 4)
        train("gs://tiny-runs/run", 8)
        store = Store("gs://tiny-runs/run")
        prompt = store.read("prompt/last/prompt.safetensors")
        lines = (store.read("metrics.jsonl") or b"").decode().splitlines()
        events = [name for name in Store.keys(store) if name.startswith("tensorboard/")]
        written = b"".join(store.read(name) or b"" for name in events)
    finally:
        server.stop()
    train(str(tmp_path / "local"), 8)
    assert prompt == (tmp_path / "local/prompt/last/prompt.safetensors").read_bytes()
    assert len(events) == 2 and b"eval/accuracy" in written and b"train/loss" in written
    told = [(json.loads(line)["step"], json.loads(line)["kind"]) for line in lines]
    assert told == [
        (0, "eval"),
        (2, "train"),
        (4, "train"),
        (4, "eval"),
        (6, "train"),
        (8, "train"),
        (8, "eval"),
    ]
