"""The forward pass of a T5 in TensorFlow's own operations, with rows and keys of a prompt.

Raffel et al. 2020, as `model/t5.py` has it, in float32. Only plain operations are used, so that a
SavedModel of it runs wherever TensorFlow does.
Shapes: B rows, T encoder columns (P of the prompt first), S decoder columns, H heads of width K,
D model width, V pieces of the vocabulary.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from prompt_jax.model.attend import MASKED
from prompt_jax.model.layers import T5Config, distance_buckets

tf: Any = importlib.import_module("tensorflow")  # its stubs know few of its arguments

ACTIVATIONS = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=True),
    "gelu_exact": lambda x: tf.nn.gelu(x, approximate=False),
    "silu": tf.nn.silu,
    "relu": tf.nn.relu,
    "linear": lambda x: x,
}


class TFT5(tf.Module):
    """`weights`: float32 by T5X's per-layer names; `prompt`: rows, keys and values by a bundle's.

    `before`: keys of self-attention stand right before the first column, else nowhere.
    """

    def __init__(self, config: T5Config, weights: Mapping, prompt: Mapping, before: bool):
        super().__init__()
        self.config, self.before = config, before
        self.w = {n: tf.Variable(x, trainable=False, name=n) for n, x in weights.items()}
        self.p = {n: tf.Variable(x, trainable=False, name=n) for n, x in prompt.items()}

    def encode(self, tokens) -> tuple[Any, Any]:
        """float32 [B, P + T, D], and which columns are real, bool [B, P + T]."""
        x, real = self._rows("encoder", self._embed(tokens), tokens > 0)
        mask = real[:, None, :, None] == real[:, None, None, :]
        columns = tf.range(tf.shape(x)[1])
        for n in range(self.config.num_encoder_layers):
            name = f"encoder/layers_{n}"
            bias = self._bias("encoder", n, columns, columns)
            y = self._norm(x, f"{name}/pre_attention_layer_norm")
            own = self._keys_values(y, f"{name}/attention")
            extra = self._extra("encoder_layers/attention", n)
            x += self._attend(y, own, f"{name}/attention", bias, mask, extra)
            x += self._mlp(self._norm(x, f"{name}/pre_mlp_layer_norm"), f"{name}/mlp")
        return self._norm(x, "encoder/encoder_norm"), real

    def logits(self, tokens, decoder_tokens):
        """float32 [B, S, V] of the decoder's inputs, int32 [B, S], all at once."""
        seen = self._seen(tokens)
        length = tf.shape(decoder_tokens)[1]
        y, _ = self._decode(seen, *self._started(decoder_tokens))
        return self._logits(y[:, tf.shape(y)[1] - length :])

    def greedy(self, tokens, length: int):
        """int32 [B, length]: greedy ids, 0 after EOS; a step decodes one column over a cache."""
        seen = self._seen(tokens)
        none = tf.zeros((tf.shape(tokens)[0], 0), tf.int32)
        _, cache = self._decode(seen, *self._started(none))
        ended = tf.logical_not(tf.reduce_any(tokens > 0, axis=1))

        def step(ids, last, ended, cache):
            y, cache = self._decode(seen, self._embed(last[:, None]), cache)
            token = tf.argmax(self._logits(y)[:, 0], -1, output_type=tf.int32)
            token = tf.where(ended, 0, token)
            return tf.concat([ids, token[:, None]], 1), token, ended | (token == 1), cache

        rows, heads = tf.TensorShape([None]), (self.config.num_heads, self.config.head_dim)
        grown = tf.nest.map_structure(lambda _: tf.TensorShape([None, None, *heads]), cache)
        ids, *_ = tf.while_loop(
            lambda ids, last, ended, cache: (tf.shape(ids)[1] < length) & ~tf.reduce_all(ended),
            step,
            (none, tf.zeros_like(ended, tf.int32), ended, cache),
            shape_invariants=(tf.TensorShape([None, None]), rows, rows, grown),
        )
        return tf.pad(ids, [[0, 0], [0, length - tf.shape(ids)[1]]])

    def _seen(self, tokens) -> tuple[Any, Any]:
        """Keys and values of every layer's attention to the encoder, and which columns are real."""
        encoded, real = self.encode(tokens)
        names = [
            f"decoder/layers_{n}/encoder_decoder_attention"
            for n in range(self.config.num_decoder_layers)
        ]
        return [self._keys_values(encoded, name) for name in names], real

    def _started(self, tokens) -> tuple[Any, Any]:
        """The decoder's rows and the embeddings of tokens behind them; and a cache of no column."""
        x, _ = self._rows("decoder", self._embed(tokens), tf.ones_like(tokens, tf.bool))
        empty = tf.zeros((tf.shape(tokens)[0], 0, self.config.num_heads, self.config.head_dim))
        return x, [(empty, empty)] * self.config.num_decoder_layers

    def _decode(self, seen, x, cache) -> tuple[Any, Any]:
        """The normed output [B, S, D] of the columns x behind those of the cache, and the cache
        with theirs: keys and values [B, columns, H, K] of every layer."""
        crossed, real = seen
        before = tf.shape(cache[0][0])[1]
        columns = tf.range(before + tf.shape(x)[1])
        now, grown = columns[before:], []
        mask = (columns[None, :] <= now[:, None])[None, None]
        for n in range(self.config.num_decoder_layers):
            name = f"decoder/layers_{n}"
            bias = self._bias("decoder", n, now, columns)
            y = self._norm(x, f"{name}/pre_self_attention_layer_norm")
            new = self._keys_values(y, f"{name}/self_attention")
            grown.append(tuple(tf.concat(pair, 1) for pair in zip(cache[n], new, strict=True)))
            extra = self._extra("decoder_layers/attention", n)
            x += self._attend(y, grown[n], f"{name}/self_attention", bias, mask, extra)
            y = self._norm(x, f"{name}/pre_cross_attention_layer_norm")
            extra, there = self._extra("decoder_layers/cross", n), real[:, None, None, :]
            x += self._attend(
                y, crossed[n], f"{name}/encoder_decoder_attention", None, there, extra
            )
            x += self._mlp(self._norm(x, f"{name}/pre_mlp_layer_norm"), f"{name}/mlp")
        return self._norm(x, "decoder/decoder_norm"), grown

    def _logits(self, y):
        c = self.config
        y = y * c.emb_dim**-0.5 if c.scale_logits else y
        if c.logits_via_embedding:
            return tf.matmul(y, self.w["token_embedder/embedding"], transpose_b=True)
        return tf.matmul(y, self.w["decoder/logits_dense/kernel"])

    def _embed(self, tokens):
        return tf.gather(self.w["token_embedder/embedding"], tokens)

    def _rows(self, side: str, x, real):
        """x and its mask behind the rows of a side, if there are some."""
        if side not in self.p:
            return x, real
        rows = tf.tile(self.p[side][None], [tf.shape(x)[0], 1, 1])
        there = tf.ones(tf.shape(rows)[:2], tf.bool)
        return tf.concat([rows, x], 1), tf.concat([there, real], 1)

    def _extra(self, place: str, layer: int):
        """The prompt's own keys and values [P, H * K] of an attention, if it has some."""
        if f"{place}/keys" not in self.p:
            return None
        return self.p[f"{place}/keys"][layer], self.p[f"{place}/values"][layer]

    def _norm(self, x, name: str):
        mean = tf.reduce_mean(x * x, -1, keepdims=True)
        return x * tf.math.rsqrt(mean + 1e-6) * self.w[f"{name}/scale"]

    def _mlp(self, x, name: str):
        functions = self.config.mlp_activations
        names = ["wi"] if len(functions) == 1 else [f"wi_{n}" for n in range(len(functions))]
        y = 1.0
        for function, matrix in zip(functions, names, strict=True):
            y *= ACTIVATIONS[function](tf.matmul(x, self.w[f"{name}/{matrix}/kernel"]))
        return tf.matmul(y, self.w[f"{name}/wo/kernel"])

    def _split(self, x):
        """[B, T, H * K] as [B, T, H, K]."""
        heads = [self.config.num_heads, self.config.head_dim]
        return tf.reshape(x, tf.concat([tf.shape(x)[:2], heads], 0))

    def _keys_values(self, x, name: str) -> tuple[Any, Any]:
        """Two arrays [B, T, H, K]."""
        return tuple(
            self._split(tf.matmul(x, self.w[f"{name}/{matrix}/kernel"]))
            for matrix in ("key", "value")
        )

    def _attend(self, x, keys_values, name: str, bias, mask, extra):
        k, v = keys_values
        q = self._split(tf.matmul(x, self.w[f"{name}/query/kernel"]))
        if extra is not None:
            P, B = extra[0].shape[0], tf.shape(x)[0]
            k, v = (
                tf.concat([tf.tile(self._split(rows[None]), [B, 1, 1, 1]), y], 1)
                for rows, y in zip(extra, (k, v), strict=True)
            )
            mask = tf.pad(mask, [[0, 0]] * 3 + [[P, 0]], constant_values=True)
            if bias is not None and not self.before:
                bias = tf.pad(bias, [[0, 0]] * 3 + [[P, 0]])
        logits = tf.einsum("bshk,bthk->bhst", q, k)
        logits = tf.where(mask, logits if bias is None else logits + bias, MASKED)
        y = tf.einsum("bhst,bthk->bshk", tf.nn.softmax(logits), v)
        width = self.config.num_heads * self.config.head_dim
        y = tf.reshape(y, tf.concat([tf.shape(x)[:2], [width]], 0))
        return tf.matmul(y, self.w[f"{name}/out/kernel"])

    def _bias(self, side: str, layer: int, queries, columns):
        """float32 [1, H, S, T] of queries and the columns that they see, int32 [S] and [T];
        [1, H, S, P + T] where keys stand before the first column."""
        c, both = self.config, side == "encoder"
        place = (
            f"{side}/layers_{layer}/relpos_bias" if c.relpos_per_layer else f"{side}/relpos_bias"
        )
        keys = self.p.get(f"{side}_layers/attention/keys")
        if keys is not None and self.before:
            columns = tf.concat([tf.range(-keys.shape[1], 0), columns], 0)
        distance = columns[None, :] - queries[:, None]
        reach = c.max_distance
        table = tf.constant(distance_buckets(reach, both, c.num_buckets, reach))
        bucket = tf.gather(table, tf.clip_by_value(distance, -reach, reach) + reach)
        return tf.gather(self.w[f"{place}/rel_embedding"], bucket, axis=1)[None]
