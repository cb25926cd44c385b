"""Tiny T5s that transformers itself writes, each loaded by transformers and by prompt_jax.

torch, transformers and PEFT are imported inside functions, so that collecting these tests needs
none of them. Expected numbers always come from the peer, computed in float32 when the test runs.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prompt_jax.backbone.load import Backbone, load_backbone

SHAPES = {
    "vocab_size": 120,
    "d_model": 32,
    "d_kv": 12,  # heads * d_kv is not d_model
    "d_ff": 48,
    "num_heads": 3,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,  # off in both, as nobody trains
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@dataclass(frozen=True)
class Family:
    """The prefix of transformers' classes, what differs from SHAPES, and whose head it is."""

    classes: str
    tied: bool
    settings: dict[str, Any]


FAMILIES = {
    "t5": Family("T5", True, {}),
    "t5_1_1": Family("T5", False, GATED),
    "t5_1_1_lm_adapted": Family("T5", False, {**GATED, "d_kv": 16, "num_heads": 2}),
    "flan_t5": Family("T5", False, {**GATED, "d_kv": 8, "num_heads": 6, "num_decoder_layers": 2}),
    "ul2": Family("T5", False, {**GATED, "feed_forward_proj": "gated-silu", "dropout_rate": 0.0}),
    "flan_ul2": Family("T5", False, {**GATED, "feed_forward_proj": "gated-silu", "d_kv": 16}),
    "t5_distances": Family(
        "T5",
        False,
        {**GATED, "relative_attention_num_buckets": 20, "relative_attention_max_distance": 60},
    ),
    "mt5": Family("MT5", False, {}),
    "umt5": Family("UMT5", False, {}),
    "umt5_tied": Family("UMT5", True, {}),
    "byt5": Family(
        "T5",
        False,
        {**GATED, "vocab_size": 384, "num_layers": 6, "num_decoder_layers": 2},
    ),
}


SAME_DECODER = ("t5_1_1_lm_adapted", "flan_t5", "flan_ul2", "mt5")


@dataclass(frozen=True)
class Pair:
    """One folder of weights, read by transformers (`peer`) and by prompt_jax (`backbone`)."""

    folder: Path
    peer: Any
    backbone: Backbone


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """A function from the name of a family to its Pair."""
    import torch

    torch.set_num_threads(1)

    @functools.cache
    def make(name: str) -> Pair:
        folder = tmp_path_factory.mktemp(name)
        _write(FAMILIES[name], folder)
        return Pair(folder, _read(FAMILIES[name], folder), load_backbone(f"hf:{folder}", "float32"))

    return make


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A T5 1.1 that PEFT's prefixes can run on: heads * d_kv is d_model, both stacks are equal."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    shapes = {"vocab_size": 120, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48}
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    folder = tmp_path_factory.mktemp("square")
    peer = T5ForConditionalGeneration(T5Config(**shapes, **gated, num_layers=3, dropout_rate=0.0))
    peer.lm_head.weight = torch.nn.Parameter(torch.randn(120, 32))
    peer.save_pretrained(folder)
    return Pair(folder, peer, load_backbone(f"hf:{folder}", "float32"))


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    """The Pair of every family in turn."""
    return make_pair(request.param)


@pytest.fixture(scope="session", params=[n for n in FAMILIES if n not in SAME_DECODER])
def decoding_pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    """The Pair of every family whose decoding differs from that of another: it is slow."""
    return make_pair(request.param)


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Padded int32 features: inputs reach past every bucket of distance, targets end in EOS."""
    rng = np.random.default_rng(1)
    targets = _padded(rng, (40, 17, 2))
    return {
        "encoder_input_tokens": _padded(rng, (150, 61, 4)),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
    }


@pytest.fixture
def questions() -> np.ndarray:
    """int32 [8, 12]: padded inputs to decode from."""
    return _padded(np.random.default_rng(2), (12, 11, 9, 8, 6, 5, 3, 2))


def _padded(rng: np.random.Generator, lengths: tuple[int, ...]) -> np.ndarray:
    rows = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = [*rng.integers(2, SHAPES["vocab_size"], length - 1), 1]
    return rows


def _write(family: Family, folder: Path) -> None:
    """Random weights in which no array may be left out, swapped or transposed unseen."""
    import torch

    torch.manual_seed(0)
    config_class, model_class = _classes(family)
    model = model_class(config_class(**{**SHAPES, **family.settings}))
    if not family.tied:  # version 5 ties every fresh model
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for name, values in model.named_parameters():
            _fill(name, values)
    model.save_pretrained(folder)


def _fill(name: str, values) -> None:
    """Norm scales in 0.5..1.5, biases that weigh, an EOS that ends some outputs and not others."""
    if "layer_norm" in name:
        values.uniform_(0.5, 1.5)
    elif "relative_attention_bias" in name:
        values.normal_()
    elif name in ("shared.weight", "lm_head.weight"):
        values.normal_(std=0.5)
        values[1] *= 2.0


def _read(family: Family, folder: Path):
    model = _classes(family)[1].from_pretrained(folder)
    # Version 5 declares every model tied, whatever the file holds. Its umT5 then scales the logits
    # of a model that has its own head; T5X's umT5, which the weights come from, does not.
    model.config.tie_word_embeddings = family.tied
    return model.eval()


def _classes(family: Family):
    import transformers as peer

    return {
        "T5": (peer.T5Config, peer.T5ForConditionalGeneration),
        "MT5": (peer.MT5Config, peer.MT5ForConditionalGeneration),
        "UMT5": (peer.UMT5Config, peer.UMT5ForConditionalGeneration),
    }[family.classes]
