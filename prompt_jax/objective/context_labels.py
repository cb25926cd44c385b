"""The loss on the labels of a context: each demonstration is predicted from the others."""

import jax.numpy as jnp
import numpy as np

from prompt_jax.methods.cpt import CPT
from prompt_jax.methods.parts.inits import pieces_of
from prompt_jax.model.logprobs import EOS, token_losses
from prompt_jax.objective.forwards import Passes
from prompt_jax.objective.loss import example_shares, loss_weights
from prompt_jax.objective.optim import Schedule
from prompt_jax.objective.terms import LossTerm, Measure
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import fractions, settings

ROOM = 8  # columns of texts where a step is only compiled


@settings
class ContextLabels(LossTerm):
    """sum over demonstrations of decay^(K - k + 1) times the cross-entropy of label k of K.

    Blau et al. 2024 (https://arxiv.org/abs/2410.17222), whose model reads from left to right and
    predicts a label from what stands before it. Port: a T5's encoder reads the context, so label k
    is the decoder's target with demonstration k hidden in the context and its input in the place
    of the example's; the mean over the label's tokens. The last label has weight `decay`, the one
    before it decay^2, and so on, beside 1 for the example's own.

    Attributes:
      method: the run's CPT, whose demonstrations these are.
      decay: at most 1.
    """

    method: CPT
    decay: float = 0.95
    weight: float | Schedule = 1.0

    def check(self):
        super().check()
        fractions("ContextLabels", {"decay": self.decay})

    def open(self, vocabulary, layout: PromptLayout) -> Measure:
        rows = {name: jnp.asarray(x) for name, x in self.rows(vocabulary, layout).items()}
        count = len(self.method.demonstrations)
        weights = self.decay ** np.arange(count, 0, -1).astype(np.float32)

        def measure(passes: Passes, batch):
            logits = passes.over("context_labels", rows).logits
            losses = token_losses(logits, rows["decoder_target_tokens"], 0.0, 0.0)[0]
            shares = example_shares(rows, loss_weights(rows))
            return (weights * (losses * shares).sum(axis=1)).sum()

        return measure

    def rows(self, vocabulary, layout: PromptLayout) -> dict[str, np.ndarray]:
        """A batch of a row for each demonstration, in which its own part of the context is hidden;
        int32 [K, P + T] of the encoder and [K, S] of the decoder."""
        texts, hidden, at = [], [], 0
        for inputs, target in self.method.demonstrations:
            count = 0
            if vocabulary is not None:
                own = self.method.texts(inputs, target)
                count = sum(len(pieces_of(vocabulary, text)) for text in own if text)
                asked = " ".join(text for text in own[:3] if text)
                texts.append((pieces_of(vocabulary, asked), pieces_of(vocabulary, target)))
            hidden.append(range(at, at + count))
            at += count
        K, P = len(hidden), layout.encoder
        T, S = (max((len(pair[n]) for pair in texts), default=ROOM) + 1 for n in (0, 1))
        encoder, decoder = np.zeros((3, K, P + T), np.int32), np.zeros((3, K, S), np.int32)
        encoder[1, :, :P], encoder[2, :, :P] = 1, np.arange(1, P + 1)
        for k, (inputs, target) in enumerate(texts):
            encoder[0, k, P : P + len(inputs) + 1] = [*inputs, EOS]
            encoder[1, k, P : P + len(inputs) + 1] = 1
            encoder[1, k, list(hidden[k])] = 0
            decoder[0, k, 1 : len(target) + 1] = target
            decoder[1, k, : len(target) + 1] = [*target, EOS]
            decoder[2, k, : len(target) + 1] = 1
        names = ("encoder_input_tokens", "encoder_segment_ids", "encoder_prompt_slots")
        more = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids")
        return dict(zip((*names, *more), (*encoder, *decoder), strict=True))
