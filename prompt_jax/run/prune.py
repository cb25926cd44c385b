"""A stage's prompt without the rows that matter least: what is done between two stages.

Ma et al. 2022 (XPrompt, https://arxiv.org/abs/2210.04457), section 3.2: each row is multiplied by a
gate that is 1. How much row i matters is the mean over batches of |d loss / d gate_i|, which is
|row_i . d loss / d row_i|. This is the paper's first pruning, of whole tokens.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax import hosts
from prompt_jax.errors import Setting, UserError
from prompt_jax.prompt.artefact import Prompt, load_prompt, save_prompt
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import Done, OnEnd
from prompt_jax.settings import settings


@settings
class PruneRows(OnEnd):
    """Later stages begin with the rows of this stage's prompt that matter most, in their order.

    Attributes:
      keep: how many encoder rows stay.
      batches: of the stage's own training data, by which rows are judged.
    """

    keep: int
    batches: int = 32

    def check(self):
        for name, value in (("keep", self.keep), ("batches", self.batches)):
            if value < 1:
                raise UserError(Setting("PruneRows", name, value), remedy="give at least 1")

    def files(self, done: Done) -> tuple[str, ...]:
        rows = done.run.method.layout.encoder
        if self.keep > rows:
            offender = Setting("PruneRows", "keep", self.keep)
            raise UserError(offender, f"the stage tunes {rows} rows", f"give at most {rows}")
        return (str(done.folder / "prompt" / f"pruned_{self.keep}"),)

    def run(self, done: Done) -> None:
        prompt = load_prompt(done.prompt)
        scores = importance(done, prompt, self.batches)
        rows = np.sort(np.argsort(-scores, kind="stable")[: self.keep])
        arrays = {**prompt.arrays, "encoder": prompt.array[rows]}
        settings = {**prompt.manifest["settings"], "length": self.keep}
        facts = {"of": prompt.manifest["sha256"], "rows": rows.tolist()}
        facts["importance"] = [float(score) for score in scores]
        if hosts.writes():
            manifest = {**prompt.manifest, "settings": settings, "metric": None, "pruned": facts}
            save_prompt(self.files(done)[0], arrays, manifest)

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


def importance(done: Done, prompt: Prompt, batches: int) -> np.ndarray:
    """float32 [P]: how much each encoder row of a stage's prompt matters to the stage's loss."""
    job = Run(done.run, done.folder)
    graphdef, weights = nnx.split(job.backbone.model)
    bundle = prompt.bundle()
    assert bundle.encoder is not None

    @jax.jit
    def gradient(weights, rows_XPD, batch) -> jax.Array:
        def loss(gates_P):
            gated = dataclasses.replace(bundle, encoder=rows_XPD * gates_P[None, :, None])
            return done.run.loss.of(nnx.merge(graphdef, weights)(batch, gated), batch)[0]

        return jnp.abs(jax.grad(loss)(jnp.ones(rows_XPD.shape[1])))

    steps = [gradient(weights, bundle.encoder, job.batch(n)[0]) for n in range(batches)]
    return np.asarray(sum(steps) / batches, np.float32)
