"""SKIP: a stage's backbone without the neurons and heads that its prompt needs least.

After Yang et al. 2024, "skeleton" pruning for prompt tuning. A gate that is 1 multiplies what
leaves each neuron of an MLP and each head of an attention. How much it matters is the mean over
batches of |d loss / d gate|, which is |activation . gradient| summed over a batch's tokens, under
the prompt that the stage has tuned. Those that matter least are cut out of the matrices (rows of
`wo`, columns of `wi`; a gated MLP loses the same ones in both), so that later stages tune the
prompt of a smaller model, and each of their steps costs less. How many of each layer go is our
choice: every layer loses equally many, since all layers of a stack lie in one array. A stack's
heads share a position bias, so that self-attention loses the same heads in every layer;
cross-attention need not.

What stays is a backbone of its own (`files:DIR`), to which the prompt belongs.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
from etils import epath

from prompt_jax import hosts
from prompt_jax.backbone.formats import files
from prompt_jax.backbone.load import digest, read_arrays
from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import depth_of
from prompt_jax.model.bundle import AXES
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.prompt.files import MANIFEST
from prompt_jax.run.cut import Chosen, cut_out
from prompt_jax.run.gates import Gates
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import Done, OnEnd
from prompt_jax.settings import at_least, fractions, settings

STACKS = {"encoder": ("attention",), "decoder": ("attention", "cross")}  # as a bundle names them


@settings
class PruneNeurons(OnEnd):
    """Later stages tune this stage's prompt on the backbone without what matters least to it.

    Attributes:
      keep: the share of every MLP's neurons that stays.
      keep_heads: the share of every attention's heads that stays.
      batches: of the stage's own training data, by which they are judged.
      by: what is kept: what matters most by the `gradient`, or as much at `random`, the control.
    """

    keep: float = 0.5
    keep_heads: float = 1.0
    batches: int = 8
    by: Literal["gradient", "random"] = "gradient"

    def check(self):
        fractions("PruneNeurons", {"keep": self.keep, "keep_heads": self.keep_heads})
        at_least("PruneNeurons", 1, {"batches": self.batches})

    def files(self, done: Done) -> tuple[str, ...]:
        return (str(done.folder / "skeleton"), str(done.folder / "prompt" / "skeleton"))

    def check_shapes(self, done: Done, later: Sequence[Train]) -> None:
        inside = [name for name in done.shapes() if "C" in AXES.get(name, "")]
        if inside and self.keep_heads < 1:
            raise UserError(
                Setting("PruneNeurons", "keep_heads", self.keep_heads),
                f"the prompt has {inside[0]}, for every head",
                "bind PruneNeurons.keep_heads = 1.0",
            )

    def run(self, done: Done) -> None:
        prompt = load_prompt(done.prompt)
        gates = Gates(done, prompt, self.batches)
        whole, arrays = read_arrays(done.run.backbone.name, "pruning")
        config = dataclasses.replace(
            whole,
            mlp_dim=max(1, round(self.keep * whole.mlp_dim)),
            num_heads=max(1, round(self.keep_heads * whole.num_heads)),
        )
        chosen = self._chosen(gates, whole, config)
        skeleton = cut_out(arrays, chosen, whole)
        words = gates.job.backbone.vocabulary
        if not hosts.writes():
            return
        folder, after = self.files(done)
        files.write(folder, config, skeleton, None if words is None else words.path or "bytes")
        kept = {name: numbers.tolist() for name, numbers in chosen.items()}
        facts = {"of": gates.job.backbone.digest, "by": self.by, "kept": kept}
        (epath.Path(folder) / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n")
        backbone = {"name": f"files:{folder}", "digest": digest(skeleton)}
        save_prompt(after, prompt.arrays, {**prompt.manifest, "backbone": backbone, "metric": None})

    def _chosen(self, gates: Gates, whole: T5Config, config: T5Config) -> Chosen:
        """The numbers of the neurons and heads that stay, ascending, for each layer."""
        width, shapes = whole.num_heads * whole.head_dim, {}
        for stack, attentions in STACKS.items():
            layers = depth_of(stack, whole)
            of = {f"{stack}_layers/wo": ((layers, whole.mlp_dim), whole.mlp_dim)}
            for name in attentions:
                alike = 1 if name == "attention" else layers
                of[f"{stack}_layers/{name}/out"] = ((alike, whole.num_heads), width)
            for matrix, (shape, inputs) in of.items():
                scale = f"{matrix}/input_scale"
                gates.arrays.setdefault(scale, np.ones((layers, inputs), np.float32))
                shapes[(scale,)] = shape
        rng, chosen = np.random.default_rng(gates.seed), {}
        for (scale,), scores in zip(shapes, gates.importance(shapes), strict=True):
            if self.by == "random":
                scores = rng.random(scores.shape)
            place = scale.removesuffix("/input_scale").removesuffix("/out")
            most = config.mlp_dim if place.endswith("wo") else config.num_heads
            best = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :most], axis=1)
            chosen[place] = np.broadcast_to(best, (len(gates.arrays[scale]), most))
        return chosen

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        method = later.method.begun_from(files[1])
        if method is None:
            problem = f"a later stage trains {type(later.method).__name__}, which does not begin "
            raise UserError(
                "PruneNeurons", f"{problem}with a saved prompt", "give later stages prompt tuning"
            )
        backbone = dataclasses.replace(later.backbone, name=f"files:{files[0]}")
        return dataclasses.replace(later, method=method, backbone=backbone)
