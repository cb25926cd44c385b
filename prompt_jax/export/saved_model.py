"""A backbone and a prompt as TensorFlow's SavedModel, of TensorFlow's own operations alone.

LoRA and (IA)3 are merged into the weights (`merged.py`); rows before the text, decoder rows and
prefixes stand beside them (`tf_t5.py`). `standalone/saved_model.py`, copied beside as `run.py`,
says what the signatures take, and runs them without this package and without JAX.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_jax.backbone.formats import Checkpoint, LazyArrays
from prompt_jax.backbone.formats.files import vocabulary_file
from prompt_jax.backbone.vocabulary import is_tokenizer
from prompt_jax.backbone.weights import arrays_of
from prompt_jax.evaluate.opening import trained
from prompt_jax.export.formats import beyond_rows, whole_model
from prompt_jax.export.merged import is_matrix, merged

if TYPE_CHECKING:
    from prompt_jax.export.formats import About
    from prompt_jax.export.tf_t5 import TFT5
    from prompt_jax.prompt.artefact import Prompt

RUN = Path(__file__).with_name("standalone") / "saved_model.py"
KINDS = ("encoder", "decoder")


def refusal(prompt: "Prompt") -> str | None:
    from prompt_jax.prompt.artefact import Prompt

    if not prompt.folds:
        return "rows that its method makes of each input"
    for name in sorted(prompt.arrays):
        if name not in KINDS and not is_matrix(name) and not name.endswith(("/keys", "/values")):
            return name
    if "encoder" not in prompt.arrays:
        return None
    return beyond_rows(Prompt({"encoder": prompt.arrays["encoder"]}, prompt.manifest, prompt.path))


def read(path: str) -> "Prompt":
    raise whole_model(path)


def write(path: Path, prompt: "Prompt", about: "About") -> dict[str, np.ndarray]:
    """The folder. Nothing in it is an array that can be compared with the prompt's: {}."""
    from prompt_jax.export.tf_t5 import TFT5, tf

    backbone, N = about.backbone_of("saved_model"), trained([prompt], "target_length", 64)
    held = Checkpoint(backbone.config, LazyArrays.of(arrays_of(backbone.model)), None)
    weights = merged(held, prompt.arrays).arrays
    beside = {name: x for name, x in prompt.arrays.items() if not is_matrix(name)}
    before = prompt.prefix_positions == "before"
    model = TFT5(backbone.config, weights, beside, before)
    ids = tf.TensorSpec([None, None], tf.int32, "tokens")
    more = tf.TensorSpec([None, None], tf.int32, "decoder_tokens")

    @tf.function(input_signature=[ids])
    def tokens(tokens):
        return {"ids": model.greedy(tokens, N)}

    @tf.function(input_signature=[ids, more])
    def logits(tokens, decoder_tokens):
        return {"logits": model.logits(tokens, decoder_tokens)}

    words, signatures = backbone.vocabulary, {"tokens": tokens, "logits": logits}
    if words is not None and (words.path is None or not is_tokenizer(words.path)):
        signatures["text"] = _text(model, N, words.path)
    tf.saved_model.save(model, str(path), signatures=signatures)
    (path / "run.py").write_bytes(RUN.read_bytes())
    return {}


def _text(model: "TFT5", N: int, vocabulary: str | None) -> Any:
    """The signature of texts, by SentencePiece's operations or, without a vocabulary, of bytes."""
    from prompt_jax.export.tf_t5 import tf

    tensorflow_text: Any = importlib.import_module("tensorflow_text")
    if vocabulary is not None:
        pieces = vocabulary_file(vocabulary)[1]
        tokenizer = tensorflow_text.SentencepieceTokenizer(pieces, out_type=tf.int32, add_eos=True)
        model.tokenizer = tokenizer  # what a function uses is to be kept by the module
        size = int(tokenizer.vocab_size())
    else:
        tokenizer, size = None, 259

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        if tokenizer is not None:
            rows: Any = tokenizer.tokenize(text)
        else:
            split = tf.strings.bytes_split(text)
            codes = tf.cast(tf.io.decode_raw(split.flat_values, tf.uint8)[:, 0], tf.int32)
            ends = tf.ones((tf.shape(text)[0], 1), tf.int32)
            rows = tf.concat([split.with_flat_values(codes + 3), ends], axis=1)
        tokens = rows.to_tensor(0)
        ids = model.greedy(tokens, N)
        shown: Any = tf.ragged.boolean_mask(ids, (ids > 2) & (ids < size))
        if tokenizer is not None:
            outputs = tokenizer.detokenize(shown)
        else:
            letters = tf.constant([bytes([n]) for n in range(256)])
            outputs = tf.strings.reduce_join(tf.gather(letters, shown - 3), axis=-1)
        return {"outputs": outputs, "ids": ids, "tokens": tokens}

    return text
