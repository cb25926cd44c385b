"""Decoding and reading of weights, beside transformers on the same weights and the same inputs."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import Checkpoint
from prompt_jax.backbone.formats.write import write_hf
from prompt_jax.backbone.load import load_backbone
from prompt_jax.model import decode
from prompt_jax.model.logprobs import EOS
from prompt_jax.model.t5 import T5Config

COLUMNS, TOKENS = 64, 32
# Random embeddings are made small: else a T5 that ties them to its logits only repeats its input.
SMALL = 0.02


@contextlib.contextmanager
def hf_folder(config: T5Config) -> Iterator[str]:
    """A folder of transformers with random weights of that shape, in float32."""
    arrays = dict(weights.arrays_of(weights.init(config, 0)))
    name = "token_embedder/embedding"
    arrays[name] = arrays[name] * np.float32(SMALL)
    with tempfile.TemporaryDirectory(prefix="prompt_jax_bench_") as folder:
        target = str(Path(folder) / "hf")
        write_hf(target, Checkpoint(config, weights.LazyArrays.of(arrays), None))
        yield target


def questions(rows: int) -> np.ndarray:
    """int32 [rows, COLUMNS]: ids of unequal lengths that end in EOS, 0 behind."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 8000, (rows, COLUMNS)).astype(np.int32)
    for row, length in zip(ids, rng.integers(COLUMNS // 2, COLUMNS + 1, rows), strict=True):
        row[length - 1 :] = 0
        row[length - 1] = EOS
    return ids


def written(ids: np.ndarray) -> int:
    """How many tokens were written, EOS included."""
    return int(((np.cumsum(ids == EOS, axis=1) - (ids == EOS)) == 0).sum())


class Decoding:
    """Greedy decoding of TOKENS tokens over a cache."""

    def __init__(self, folder: str, ids: np.ndarray):
        graphdef, params = nnx.split(load_backbone(f"hf:{folder}", "float32").model)

        def generate(params, batch):
            t5 = nnx.merge(graphdef, params)
            return decode.generate(t5, batch, decode.NO_PROMPT, max_length=TOKENS)[0][:, 0]

        self.call, self.said = jax.jit(generate), np.zeros((len(ids), TOKENS), np.int32)
        self.arguments = (params, {"encoder_input_tokens": jnp.asarray(ids)})

    def step(self) -> tuple[float, int]:
        began = time.perf_counter()
        self.said = np.asarray(self.call(*self.arguments))
        return time.perf_counter() - began, written(self.said)


class TransformersDecoding:
    """The same by `generate` of transformers."""

    def __init__(self, folder: str, ids: np.ndarray):
        import transformers

        self.torch: Any = import_module("torch")
        t5: Any = transformers.T5ForConditionalGeneration
        self.model = t5.from_pretrained(folder, dtype=self.torch.float32).eval()
        self.ids = self.torch.tensor(ids).long()
        self.said = np.zeros((len(ids), TOKENS), np.int32)

    def step(self) -> tuple[float, int]:
        options = {"max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1, "use_cache": True}
        mask = (self.ids > 0).long()
        began = time.perf_counter()
        with self.torch.inference_mode():
            said = self.model.generate(input_ids=self.ids, attention_mask=mask, **options)
        seconds = time.perf_counter() - began
        said = said.numpy()[:, 1:]
        self.said = np.pad(said, ((0, 0), (0, TOKENS - said.shape[1])))
        return seconds, written(self.said)


class Reading:
    """Reading of a folder's weights, in megabytes."""

    def __init__(self, folder: str):
        self.folder = folder
        self.size = sum(p.stat().st_size for p in Path(folder).glob("*.safetensors")) / 1e6

    def step(self) -> tuple[float, float]:
        began = time.perf_counter()
        model = load_backbone(f"hf:{self.folder}", "float32").model
        jax.block_until_ready(nnx.state(model))
        return time.perf_counter() - began, self.size


class TransformersReading(Reading):
    """The same by transformers; what it maps is touched."""

    def step(self) -> tuple[float, float]:
        import transformers

        torch: Any = import_module("torch")
        t5: Any = transformers.T5ForConditionalGeneration
        began = time.perf_counter()
        model = t5.from_pretrained(self.folder, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.detach().amax()
        return time.perf_counter() - began, self.size
