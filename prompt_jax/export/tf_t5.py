"""The forward pass of a T5 in TensorFlow's own operations, with rows and keys of a prompt.

Raffel et al. 2020, as `model/t5.py` has it, in float32. Only plain operations are used, so that a
SavedModel of it runs wherever TensorFlow does.
Shapes: B rows, T encoder columns (P of the prompt first), S decoder columns, H heads of width K.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from prompt_jax.model.layers import MASKED, T5Config, distance_buckets

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
        for n in range(self.config.num_encoder_layers):
            name = f"encoder/layers_{n}"
            bias = self._bias("encoder", n, tf.shape(x)[1])
            y = self._norm(x, f"{name}/pre_attention_layer_norm")
            extra = self._keys("encoder_layers/attention", n)
            x += self._attend(y, y, f"{name}/attention", bias, mask, extra)
            x += self._mlp(self._norm(x, f"{name}/pre_mlp_layer_norm"), f"{name}/mlp")
        return self._norm(x, "encoder/encoder_norm"), real

    def decode(self, encoded, real, tokens):
        """float32 logits [B, S, V] of the decoder's inputs, int32 [B, S]."""
        c = self.config
        x, _ = self._rows("decoder", self._embed(tokens), tf.ones_like(tokens, tf.bool))
        length = tf.shape(x)[1]
        causal = tf.linalg.band_part(tf.ones((length, length), tf.bool), -1, 0)[None, None]
        cross = real[:, None, None, :]
        for n in range(c.num_decoder_layers):
            name = f"decoder/layers_{n}"
            bias = self._bias("decoder", n, length)
            y = self._norm(x, f"{name}/pre_self_attention_layer_norm")
            extra = self._keys("decoder_layers/attention", n)
            x += self._attend(y, y, f"{name}/self_attention", bias, causal, extra)
            y = self._norm(x, f"{name}/pre_cross_attention_layer_norm")
            extra = self._keys("decoder_layers/cross", n)
            x += self._attend(y, encoded, f"{name}/encoder_decoder_attention", None, cross, extra)
            x += self._mlp(self._norm(x, f"{name}/pre_mlp_layer_norm"), f"{name}/mlp")
        y = self._norm(x, "decoder/decoder_norm")[:, length - tf.shape(tokens)[1] :]
        y = y * c.emb_dim**-0.5 if c.scale_logits else y
        if c.logits_via_embedding:
            return tf.matmul(y, self.w["token_embedder/embedding"], transpose_b=True)
        return tf.matmul(y, self.w["decoder/logits_dense/kernel"])

    def greedy(self, tokens, length: int):
        """int32 [B, length]: greedy ids, 0 after EOS; each step decodes what there is anew."""
        encoded, real = self.encode(tokens)
        B = tf.shape(tokens)[0]
        inputs = tf.zeros((B, 1), tf.int32)
        ended = tf.logical_not(tf.reduce_any(tokens > 0, axis=1))

        def step(inputs, ended):
            logits = self.decode(encoded, real, inputs)[:, -1]
            token = tf.where(ended, 0, tf.argmax(logits, -1, output_type=tf.int32))
            return tf.concat([inputs, token[:, None]], 1), ended | (token == 1)

        inputs, _ = tf.while_loop(
            lambda inputs, ended: (tf.shape(inputs)[1] <= length) & ~tf.reduce_all(ended),
            step,
            (inputs, ended),
            shape_invariants=(tf.TensorShape([None, None]), tf.TensorShape([None])),
        )
        room = length + 1 - tf.shape(inputs)[1]
        return tf.pad(inputs[:, 1:], [[0, 0], [0, room]])

    def _embed(self, tokens):
        return tf.gather(self.w["token_embedder/embedding"], tokens)

    def _rows(self, side: str, x, real):
        """x and its mask behind the rows of a side, if there are some."""
        if side not in self.p:
            return x, real
        rows = tf.tile(self.p[side][None], [tf.shape(x)[0], 1, 1])
        there = tf.ones(tf.shape(rows)[:2], tf.bool)
        return tf.concat([rows, x], 1), tf.concat([there, real], 1)

    def _keys(self, place: str, layer: int):
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

    def _attend(self, x, seen, name: str, bias, mask, extra):
        heads, width = self.config.num_heads, self.config.head_dim

        def split(y):
            return tf.reshape(y, [tf.shape(y)[0], -1, heads, width])

        q = split(tf.matmul(x, self.w[f"{name}/query/kernel"]))
        k = split(tf.matmul(seen, self.w[f"{name}/key/kernel"]))
        v = split(tf.matmul(seen, self.w[f"{name}/value/kernel"]))
        if extra is not None:
            P, B = extra[0].shape[0], tf.shape(x)[0]
            k, v = (
                tf.concat([tf.tile(split(rows[None]), [B, 1, 1, 1]), y], 1)
                for rows, y in zip(extra, (k, v), strict=True)
            )
            mask = tf.pad(mask, [[0, 0]] * 3 + [[P, 0]], constant_values=True)
            if bias is not None and not self.before:
                bias = tf.pad(bias, [[0, 0]] * 3 + [[P, 0]])
        logits = tf.einsum("bshk,bthk->bhst", q, k)
        logits = tf.where(mask, logits if bias is None else logits + bias, MASKED)
        y = tf.einsum("bhst,bthk->bshk", tf.nn.softmax(logits), v)
        y = tf.reshape(y, [tf.shape(x)[0], tf.shape(x)[1], heads * width])
        return tf.matmul(y, self.w[f"{name}/out/kernel"])

    def _bias(self, side: str, layer: int, columns):
        """float32 [1, H, T, T], or [1, H, T, P + T] where keys stand before the first column."""
        c, both = self.config, side == "encoder"
        place = (
            f"{side}/layers_{layer}/relpos_bias" if c.relpos_per_layer else f"{side}/relpos_bias"
        )
        keys = self.p.get(f"{side}_layers/attention/keys")
        first = -keys.shape[1] if keys is not None and self.before else 0
        distance = tf.range(first, columns)[None, :] - tf.range(columns)[:, None]
        reach = c.max_distance
        table = tf.constant(distance_buckets(reach, both, c.num_buckets, reach))
        bucket = tf.gather(table, tf.clip_by_value(distance, -reach, reach) + reach)
        return tf.gather(self.w[f"{place}/rel_embedding"], bucket, axis=1)[None]
