"""A backbone and a prompt as three functions of StableHLO, by `jax.export`.

`encode`, `decode_step` and `greedy` take any batch and any length, and are one artefact for CPU,
CUDA and TPU. `standalone/stablehlo.py`, copied beside them as `run.py`, says what they take, and
runs them without this package.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.backbone.formats.files import vocabulary_file
from prompt_jax.backbone.vocabulary import is_tokenizer
from prompt_jax.evaluate.opening import trained
from prompt_jax.export.formats import whole_model
from prompt_jax.model import cache, decode
from prompt_jax.model.logprobs import EOS

if TYPE_CHECKING:
    from prompt_jax.backbone.load import Backbone
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt
    from prompt_jax.prompt.layout import PromptLayout

PLATFORMS = ("cpu", "cuda", "tpu")
RUN = Path(__file__).with_name("standalone") / "stablehlo.py"
State = dict[str, jax.Array]


def refusal(prompt: "Prompt") -> str | None:
    if not prompt.folds:
        return "rows that its method makes of each input"
    if prompt.layout.factors:
        return "rows that depend on the task (DIR?task=NAME is one of them)"
    if prompt.layout.marks:
        return "rows between the fields of a text"
    return None


def read(path: str) -> "Prompt":
    raise whole_model(path)


def write(path: Path, prompt: "Prompt", about: "About") -> dict[str, np.ndarray]:
    """The folder. Nothing in it is an array that can be compared with the prompt's: {}."""
    backbone, N = about.backbone_of("stablehlo"), trained([prompt], "target_length", 64)
    weights, functions = programs(backbone, prompt, N)
    path.mkdir()
    tokenizer = write_vocabulary(path, backbone)
    for name, (function, arguments) in functions.items():
        if about.weights_inside:
            inside = _with(function, {n: jnp.asarray(x) for n, x in weights.items()})
            lowered = jax.export.export(jax.jit(inside), platforms=PLATFORMS)(*arguments)
        else:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
            both = jax.export.export(jax.jit(function), platforms=PLATFORMS)
            lowered = both(shapes, *arguments)
        (path / f"{name}.stablehlo").write_bytes(lowered.serialize())
    if not about.weights_inside:
        np.savez(path / "weights.npz", **dict[str, Any](weights))
    facts = {"max_length": N, "platforms": PLATFORMS, "tokenizer": tokenizer}
    (path / "model.json").write_text(json.dumps(facts, indent=2) + "\n")
    (path / "run.py").write_bytes(RUN.read_bytes())
    return {}


def write_vocabulary(path: Path, backbone: "Backbone") -> str | None:
    """The name of the vocabulary's file, written beside the program; "bytes", or None."""
    words = backbone.vocabulary
    if words is None or (words.path is not None and is_tokenizer(words.path)):
        return None  # another library's tokenizer: ids go in
    if words.path is None:
        return "bytes"
    name, data = vocabulary_file(words.path)
    (path / name).write_bytes(data)
    return name


def _with(function: Callable, weights: dict[str, jax.Array]) -> Callable:
    return lambda *arguments: function(weights, *arguments)


def programs(
    backbone: "Backbone", prompt: "Prompt", N: int
) -> tuple[dict[str, np.ndarray], dict[str, tuple[Callable, tuple]]]:
    """The weights by name, the prompt's among them, and {name: (function, its arguments after the
    weights, as shapes)}. N: the longest output in tokens."""
    graphdef, params = nnx.split(backbone.model)
    bundle = backbone.model.computed_once(prompt.bundle())
    tree, structure = jax.tree.flatten((params, bundle))
    weights = {f"{n:04d}": np.asarray(leaf) for n, leaf in enumerate(tree)}
    layout, c = prompt.layout, backbone.config

    def model(weights: dict[str, Any]) -> Any:
        params, bundle = jax.tree.unflatten(structure, [weights[n] for n in sorted(weights)])
        return nnx.merge(graphdef, params), bundle

    def encode(weights: dict[str, Any], tokens: jax.Array) -> State:
        t5, bundle = model(weights)
        return _state(cache.prefill(t5, features(tokens, layout), bundle, columns=N))

    def decode_step(weights: dict[str, Any], last: jax.Array, state: State):
        t5, bundle = model(weights)
        logits, grown = cache.next_logits(t5, _cache(state), last, bundle)
        return logits, _state(grown)

    def greedy(weights: dict[str, Any], tokens: jax.Array) -> jax.Array:
        t5, bundle = model(weights)
        batch = features(tokens, layout)
        return decode.greedy(t5, batch, bundle, max_length=N)[0]

    b, t = jax.export.symbolic_shape("b, t")
    texts = jax.ShapeDtypeStruct((b, t), jnp.int32)
    b, e = jax.export.symbolic_shape("b, e")
    columns = N + layout.decoder
    shapes = {
        "lengths": ((b,), jnp.int32),
        "encoder_mask": ((b, e), bool),
        **dict.fromkeys(
            ("self_keys", "self_values"),
            ((c.num_decoder_layers, b, columns, c.num_heads, c.head_dim), jnp.float32),
        ),
        **dict.fromkeys(
            ("cross_keys", "cross_values"),
            ((c.num_decoder_layers, b, e, c.num_heads, c.head_dim), jnp.float32),
        ),
    }
    state = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}
    last = jax.ShapeDtypeStruct((b,), jnp.int32)
    return weights, {
        "encode": (encode, (texts,)),
        "decode_step": (decode_step, (last, state)),
        "greedy": (greedy, (texts,)),
    }


def features(tokens_BT: jax.Array, layout: "PromptLayout") -> dict[str, jax.Array]:
    """The encoder's features of texts, the prompt's columns where `layout` has them."""
    P, T = layout.columns, tokens_BT.shape[1]
    if not P:
        return {"encoder_input_tokens": tokens_BT}
    n_B1 = jnp.sum(tokens_BT > 0, axis=1, keepdims=True)
    last_B1 = jnp.take_along_axis(tokens_BT, jnp.maximum(n_B1 - 1, 0), axis=1)
    at_B1 = {
        "prefix": jnp.zeros_like(n_B1),
        "after_bos": jnp.minimum(n_B1, 1),
        "suffix": n_B1,
        "before_eos": n_B1 - (last_B1 == EOS),
    }[layout.placement]
    column = jnp.arange(T + P)[None]
    mine = (column >= at_B1) & (column < at_B1 + P)
    source = jnp.where(column < at_B1, column, column - P)
    text = jnp.take_along_axis(tokens_BT, jnp.clip(source, 0, T - 1), axis=1)
    real = (column < n_B1 + P) & ~mine
    return {
        "encoder_input_tokens": jnp.where(real, text, 0),
        "encoder_prompt_slots": jnp.where(mine, column - at_B1 + 1, 0).astype(jnp.int32),
    }


def _state(rows: cache.Cache) -> State:
    keys, values = rows.attention
    cross_keys, cross_values = rows.cross
    return {
        "lengths": rows.lengths,
        "encoder_mask": rows.encoder_mask,
        "self_keys": keys,
        "self_values": values,
        "cross_keys": cross_keys,
        "cross_values": cross_values,
    }


def _cache(state: State) -> cache.Cache:
    return cache.Cache(
        lengths=state["lengths"],
        prompts=jnp.zeros_like(state["lengths"]),
        encoder_mask=state["encoder_mask"],
        attention=(state["self_keys"], state["self_values"]),
        cross=(state["cross_keys"], state["cross_values"]),
    )
