"""The same work in PEFT: prompt tuning of a T5 of transformers, rows padded to the batch's longest.

torch, transformers and PEFT are imported when a side is made, so that a benchmark of ours alone
needs none of them.
"""

import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from prompt_jax.bench.lengths import Lengths
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

NEEDED = ("torch", "transformers", "peft")
EXAMPLES = 512


def check() -> None:
    """UserError where a library is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            "--against=peft",
            f"{', '.join(missing)} is not installed",
            "pip install 'prompt-jax[parity]'",
        )


class PeftStepping:
    """Steps of PEFT's prompt tuning in float32 without dropout.

    Args:
      config: the shape of the T5.
      lengths: of the examples, which are those that `Stepping` takes.
      rows: examples of a step.
      prompt: virtual tokens.
      padded_to: columns of every batch; None: as many as its longest example has.
    """

    def __init__(
        self, config: T5Config, lengths: Lengths, rows: int, prompt: int, padded_to: int | None
    ):
        import transformers

        peft: Any = import_module("peft")  # installed for comparisons alone
        torch: Any = import_module("torch")

        gated = len(config.mlp_activations) > 1
        shape: Any = transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu" if gated else config.mlp_activations[0],
            tie_word_embeddings=config.logits_via_embedding,  # pyright: ignore[reportCallIssue]
            dropout_rate=0.0,
            decoder_start_token_id=0,  # pyright: ignore[reportCallIssue]
            use_cache=False,
        )
        tuned = peft.PromptTuningConfig(
            task_type=peft.TaskType.SEQ_2_SEQ_LM,
            num_virtual_tokens=prompt,
            num_transformer_submodules=1,
            token_dim=config.emb_dim,
            num_layers=config.num_encoder_layers,
            num_attention_heads=config.num_heads,
        )
        torch.manual_seed(0)
        self.torch = torch
        self.model = peft.get_peft_model(transformers.T5ForConditionalGeneration(shape), tuned)
        self.model.eval()  # no dropout
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.3)
        self.task = lengths.examples("synthetic", EXAMPLES)
        self.rows, self.padded_to, self.at = rows, padded_to, 0

    def step(self) -> tuple[float, int]:
        """Seconds of one step, its batch at hand, and how many examples it held."""
        rows = [(self.at + i) % EXAMPLES for i in range(self.rows)]
        self.at += self.rows
        inputs = self._padded([self.task.inputs[i] for i in rows], self.padded_to, 0)
        labels = self._padded([self.task.targets[i] for i in rows], None, -100)
        began = time.perf_counter()
        output = self.model(input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels)
        output.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began, self.rows

    def _padded(self, texts: list[np.ndarray], width: int | None, filler: int) -> Any:
        ids = np.full((len(texts), width or max(map(len, texts))), filler, np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        return self.torch.from_numpy(ids)
