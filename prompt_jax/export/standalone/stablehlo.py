"""Runs this folder by jax alone: `python run.py TEXT ...` prints what the model writes.

`weights.npz`, where it is there, is the first argument of every function of `*.stablehlo`:

  encode(tokens int32 [b, t]) -> state          padded with 0, EOS (1) last
  decode_step(last int32 [b], state) -> (logits float32 [b, V], state)
  greedy(tokens int32 [b, t]) -> ids int32 [b, max_length], 0 after EOS

The prompt is inside: tokens are those of the text. `model.json` says how texts become tokens.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
from jax import export

FUNCTIONS = ("encode", "decode_step", "greedy")


class Model:
    """The functions of a folder, and its tokenizer."""

    def __init__(self, folder):
        folder = Path(folder)
        self.about = json.loads((folder / "model.json").read_text())
        self.first = ()
        if (folder / "weights.npz").is_file():
            with np.load(folder / "weights.npz", allow_pickle=False) as file:
                self.first = ({name: file[name] for name in file.files},)
        self.functions = {}
        for name in FUNCTIONS:
            data = bytearray((folder / f"{name}.stablehlo").read_bytes())
            self.functions[name] = export.deserialize(data)
        self.pieces = None
        if self.about["tokenizer"] not in (None, "bytes"):
            import sentencepiece

            file = str(folder / self.about["tokenizer"])
            self.pieces = sentencepiece.SentencePieceProcessor(model_file=file)

    def call(self, name, *arguments):
        return self.functions[name].call(*self.first, *arguments)

    def ids(self, text):
        if self.about["tokenizer"] is None:
            sys.exit("this model has no tokenizer here: call its functions with ids")
        if self.pieces is not None:
            return [*self.pieces.encode(text), 1]
        return [*(byte + 3 for byte in text.encode()), 1]

    def text(self, ids):
        ids = [int(i) for i in ids if i > 1]
        if self.pieces is not None:
            return self.pieces.decode([i for i in ids if i < self.pieces.get_piece_size()])
        return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="ignore")

    def answer(self, texts):
        ids = self.call("greedy", padded([self.ids(text) for text in texts]))
        return [self.text(row) for row in np.asarray(ids)]


def padded(rows):
    table = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(table, rows):  # noqa: B905
        line[: len(row)] = row
    return table


def check(folder, scratch):
    """Answers `request.json` of a folder: logits of given tokens, greedy ids, ids of texts."""
    model, found = Model(folder), {}
    request = json.loads((scratch / "request.json").read_text())
    with np.load(scratch / "batch.npz", allow_pickle=False) as file:
        batch = {name: file[name].astype(np.int32) for name in file.files}
    tokens = batch["encoder_input_tokens"]
    if request["texts"] and model.about["tokenizer"] is not None:
        found["token_ids"] = padded([model.ids(text) for text in request["texts"]])
        if np.array_equal(found["token_ids"], tokens):
            tokens = found["token_ids"]  # from the text, all the way
    state, steps = model.call("encode", tokens), []
    for last in batch["decoder_input_tokens"].T:
        logits, state = model.call("decode_step", np.ascontiguousarray(last), state)
        steps.append(np.asarray(logits))
    found["logits"] = np.stack(steps, axis=1)
    found["ids"] = np.asarray(model.call("greedy", tokens))
    np.savez(scratch / "found.npz", **found)
    assert not any(name.startswith("prompt_jax") for name in sys.modules), "prompt_jax was needed"
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    (scratch / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if not sys.argv[1:]:
        sys.exit("give texts: python run.py TEXT ...")
    if sys.argv[1] == "--check":
        check(here, Path(sys.argv[2]))
    else:
        for line in Model(here).answer(sys.argv[1:]):
            print(line)
