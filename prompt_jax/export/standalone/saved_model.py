"""Runs this folder by TensorFlow alone: `python run.py TEXT ...` prints what the model writes.

Signatures: `tokens` (int32 [b, t], padded with 0, EOS (1) last -> `ids` int32 [b, max_length], 0
after EOS), `logits` (`tokens` and `decoder_tokens` int32 -> float32 [b, s, V]) and, where the
vocabulary is one of SentencePiece or bytes, `text` (strings [b] -> `outputs` strings, `ids`, and
`tokens`). The prompt is inside.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np

if sys.argv[1:2] == ["--check"]:  # whoever wants them now fails
    sys.modules |= {"jax": None, "prompt_jax": None}

import tensorflow as tf
import tensorflow_text  # noqa: F401 (the ops of the signature `text`)


def check(folder, scratch):
    """Answers `request.json` of a folder: logits of given tokens, greedy ids, ids of texts."""
    loaded, found = tf.saved_model.load(str(folder)), {}
    request = json.loads((scratch / "request.json").read_text())
    with np.load(scratch / "batch.npz", allow_pickle=False) as file:
        batch = {name: file[name].astype(np.int32) for name in file.files}
    tokens = tf.constant(batch["encoder_input_tokens"])
    if request["texts"] and "text" in loaded.signatures:
        answer = loaded.signatures["text"](text=tf.constant(request["texts"]))
        found["token_ids"], found["text_ids"] = answer["tokens"].numpy(), answer["ids"].numpy()
    decoder_tokens = tf.constant(batch["decoder_input_tokens"])
    logits = loaded.signatures["logits"](tokens=tokens, decoder_tokens=decoder_tokens)
    found["logits"] = logits["logits"].numpy()
    found["ids"] = loaded.signatures["tokens"](tokens=tokens)["ids"].numpy()
    if "token_ids" in found and np.array_equal(found["token_ids"], tokens):
        assert np.array_equal(found["text_ids"], found["ids"]), "text and tokens differ"
    np.savez(scratch / "found.npz", **found)
    versions = {
        name: importlib.metadata.version(name) for name in ("tensorflow", "tensorflow-text")
    }
    (scratch / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if not sys.argv[1:]:
        sys.exit("give texts: python run.py TEXT ...")
    if sys.argv[1] == "--check":
        check(here, Path(sys.argv[2]))
    else:
        signatures = tf.saved_model.load(str(here)).signatures
        if "text" not in signatures:
            sys.exit("this model has no tokenizer here: call the signature `tokens` with ids")
        for line in signatures["text"](text=tf.constant(sys.argv[1:]))["outputs"].numpy():
            print(line.decode())
