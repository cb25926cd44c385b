"""A stage's prompt without the rows, and the pieces of rows, that matter least.

XPrompt, Ma et al. 2022 (https://arxiv.org/abs/2210.04457), section 3.2. Each row is multiplied by a
gate that is 1. How much row i matters is the mean over batches of |d loss / d gate_i|, which is
|row_i . d loss / d row_i|; those that matter least are left out. Then each row that stays is cut
into equal pieces, each with a gate of its own, and the pieces that matter least are set to 0. What
stays keeps the values it had (rewinding), and the next stage trains it again; pieces stay 0 there
under the rule `KeepZeros`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax import hosts
from prompt_jax.errors import Setting, UserError
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import Done, OnEnd
from prompt_jax.settings import settings


@settings
class PruneRows(OnEnd):
    """Later stages begin with the rows of this stage's prompt that matter most, in their order.

    Attributes:
      keep: how many encoder rows stay.
      batches: of the stage's own training data, by which rows and pieces are judged.
      pieces: into how many each row is cut (the paper's code: not published; 16 here as in E2VPT);
        1: rows alone are pruned.
      keep_pieces: how many pieces of all rows that stay; None: all.
      by: what is kept: what matters most by the `gradient`, or as much at `random`, the control.
    """

    keep: int
    batches: int = 32
    pieces: int = 1
    keep_pieces: int | None = None
    by: Literal["gradient", "random"] = "gradient"

    def check(self):
        for name, value in (
            ("keep", self.keep),
            ("batches", self.batches),
            ("pieces", self.pieces),
        ):
            if value < 1:
                raise UserError(Setting("PruneRows", name, value), remedy="give at least 1")
        most = self.keep * self.pieces
        if self.keep_pieces is not None and not 1 <= self.keep_pieces <= most:
            raise UserError(
                Setting("PruneRows", "keep_pieces", self.keep_pieces),
                f"{self.keep} rows have {most} pieces",
                f"give 1 to {most}",
            )

    def files(self, done: Done) -> tuple[str, ...]:
        rows = done.run.method.layout.encoder
        if self.keep > rows:
            offender = Setting("PruneRows", "keep", self.keep)
            raise UserError(offender, f"the stage tunes {rows} rows", f"give at most {rows}")
        return (str(done.folder / "prompt" / f"pruned_{self.keep}"),)

    def run(self, done: Done) -> None:
        prompt = load_prompt(done.prompt)
        D = prompt.array.shape[1]
        if D % self.pieces:
            raise UserError(
                Setting("PruneRows", "pieces", self.pieces),
                f"a row has {D} numbers",
                f"give a divisor of {D}",
            )
        gates = Gates(done, prompt.bundle(), self.batches)
        of_rows = gates.importance(prompt.array, 1)[:, 0]
        rows = self._best(of_rows, self.keep, done.run.seed)
        kept = prompt.array[rows]
        facts = {"of": prompt.manifest["sha256"], "rows": rows.tolist(), "by": self.by}
        facts["importance"] = [float(score) for score in of_rows]
        if self.keep_pieces is not None:
            of_pieces = gates.importance(kept, self.pieces)
            best = self._best(of_pieces.ravel(), self.keep_pieces, done.run.seed + 1)
            mask = np.zeros(of_pieces.size, np.float32)
            mask[best] = 1.0
            mask = mask.reshape(of_pieces.shape)
            kept = kept * np.repeat(mask, D // self.pieces, axis=1)
            facts["pieces"] = mask.astype(int).tolist()
        if hosts.writes():
            settings = {**prompt.manifest["settings"], "length": self.keep}
            manifest = {**prompt.manifest, "settings": settings, "metric": None, "pruned": facts}
            save_prompt(self.files(done)[0], {**prompt.arrays, "encoder": kept}, manifest)

    def _best(self, scores: np.ndarray, count: int, seed: int) -> np.ndarray:
        """The numbers of so many of the best, ascending; or of any."""
        if self.by == "random":
            scores = np.random.default_rng(seed).permutation(len(scores))
        return np.sort(np.argsort(-scores, kind="stable")[:count])

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        method = later.method.begun_from(files[0], self.keep)
        if method is None:
            raise UserError(
                "PruneRows",
                f"a later stage trains {type(later.method).__name__}, whose rows do not begin with "
                "a saved prompt's",
                "give later stages prompt tuning",
            )
        return dataclasses.replace(later, method=method)


class Gates:
    """The gates of rows and pieces on a stage's own training data."""

    def __init__(self, done: Done, bundle: PromptBundle, batches: int):
        self.job, self.run = Run(done.run, done.folder), done.run
        self.text = done.run.data.read()
        self.bundle, self.batches = bundle, batches

    def importance(self, rows_PD: np.ndarray, pieces: int) -> np.ndarray:
        """float32 [P, pieces]: how much each piece of each row matters to the stage's loss, where
        examples carry these rows alone."""
        graphdef, weights = nnx.split(self.job.backbone.model)
        P, D = rows_PD.shape
        layout = dataclasses.replace(self.run.method.layout, encoder=P)
        self.job.data = self.text.open(self.job.backbone.vocabulary, layout, self.run.seed)

        @jax.jit
        def gradient(weights, rows_PD, batch) -> jax.Array:
            def loss(gates_Pq):
                gated = rows_PD * jnp.repeat(gates_Pq, D // pieces, axis=1)
                bundle = dataclasses.replace(self.bundle, encoder=gated[None])
                return self.run.loss.of(nnx.merge(graphdef, weights)(batch, bundle), batch)[0]

            return jnp.abs(jax.grad(loss)(jnp.ones((P, pieces))))

        steps = [gradient(weights, rows_PD, self.job.batch(n)[0]) for n in range(self.batches)]
        return np.asarray(sum(steps) / self.batches, np.float32)
