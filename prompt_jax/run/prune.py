"""A stage's prompt without the rows and keys, and the pieces of them, that matter least.

XPrompt, Ma et al. 2022 (https://arxiv.org/abs/2210.04457), section 3.2. Each row is multiplied by a
gate that is 1. How much row i matters is the mean over batches of |d loss / d gate_i|, which is
|row_i . d loss / d row_i|; those that matter least are left out. Then each row that stays is cut
into equal pieces, each with a gate of its own, and the pieces that matter least are set to 0. What
stays keeps the values it had (rewinding), and the next stage trains it again; pieces stay 0 there
under the rule `KeepZeros`.

E2VPT, Han et al. 2023 (https://arxiv.org/abs/2307.13770), does the same with rows that enter every
layer. Here the keys and values of an attention may be pruned too: a key and its value share their
gates, and so do the rows, or the keys, of one place in all layers, so that every layer has equally
many; pieces have gates of their own in every layer. The released code takes means of gradients with
their signs, where batches cancel; these are of absolute ones.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from prompt_jax import hosts
from prompt_jax.errors import Setting, UserError
from prompt_jax.model.bundle import ATTENTIONS
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.run.gates import ROWS, Gates, Names
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import Done, OnEnd
from prompt_jax.settings import at_least, settings


@settings
class PruneRows(OnEnd):
    """Later stages begin with the rows of this stage's prompt that matter most, in their order.

    Attributes:
      keep: how many encoder rows stay; 0 where the prompt has none.
      batches: of the stage's own training data, by which rows and pieces are judged.
      pieces: into how many each row, or key, is cut (the paper's code: not published; 16 here as in
        E2VPT); 1: whole ones alone are pruned.
      keep_pieces: how many pieces of all rows stay, of each layer in the mean where every layer has
        rows; None: all.
      keep_keys: how many keys of each attention stay, with their values; None: all.
      keep_key_pieces: how many pieces of an attention's keys stay, of each layer in the mean; None:
        all.
      by: what is kept: what matters most by the `gradient`, or as much at `random`, the control.
    """

    keep: int
    batches: int = 32
    pieces: int = 1
    keep_pieces: int | None = None
    keep_keys: int | None = None
    keep_key_pieces: int | None = None
    by: Literal["gradient", "random"] = "gradient"

    def check(self):
        counts = {"batches": self.batches, "pieces": self.pieces, "keep_keys": self.keep_keys}
        at_least("PruneRows", 1, counts)
        at_least("PruneRows", 0, {"keep": self.keep})
        if self.pieces > 1 and self.keep_pieces is None and self.keep_key_pieces is None:
            problem = "all pieces stay: nothing says how many are to"
            offender = Setting("PruneRows", "pieces", self.pieces)
            raise UserError(offender, problem, "bind PruneRows.keep_pieces too, or leave it out")
        self._check_pieces("keep_pieces", self.keep_pieces, self.keep, "rows")
        self._check_pieces("keep_key_pieces", self.keep_key_pieces, self.keep_keys or 0, "keys")

    def _check_pieces(self, name: str, value: int | None, count: int, of: str) -> None:
        most = count * self.pieces
        if value is not None and not 1 <= value <= most:
            raise UserError(
                Setting("PruneRows", name, value),
                f"{count} {of} have {most} pieces",
                f"give 1 to {most}" if most else "bind PruneRows.keep_keys too",
            )

    def files(self, done: Done) -> tuple[str, ...]:
        rows = done.run.method.layout.encoder
        if rows and self.keep < 1:
            raise UserError(Setting("PruneRows", "keep", self.keep), remedy="give at least 1")
        if not rows and self.keep_keys is None:
            offender = Setting("PruneRows", "keep_keys", None)
            raise UserError(offender, "the stage tunes no rows", "say how many keys stay")
        if self.keep > rows:
            offender = Setting("PruneRows", "keep", self.keep)
            raise UserError(offender, f"the stage tunes {rows} rows", f"give at most {rows}")
        return (str(done.folder / "prompt" / f"pruned_{self.keep or self.keep_keys}"),)

    def check_shapes(self, done: Done, later: Sequence[Train]) -> None:
        self._parts(done.shapes())

    def run(self, done: Done) -> None:
        prompt = load_prompt(done.prompt)
        gates = Gates(done, prompt, self.batches)
        parts = self._parts(gates.arrays)
        facts: dict[str, dict[str, Any]] = {}
        whole = {part.names: (part.count, 1) for part in parts.values()}
        for (name, part), scores in zip(parts.items(), gates.importance(whole), strict=True):
            best = self._best(scores[:, 0], part.keep, gates.seed)
            gates.cut(part.names, best)
            facts[name] = {"numbers": best.tolist(), "importance": scores[:, 0].tolist()}
        cut = {name: part for name, part in parts.items() if part.keep_pieces is not None}
        shapes = {part.names: (*part.layers, part.keep, self.pieces) for part in cut.values()}
        for (name, part), scores in zip(cut.items(), gates.importance(shapes), strict=True):
            most = (part.keep_pieces or 0) * math.prod(part.layers)
            mask = np.zeros(scores.size, np.float32)
            mask[self._best(scores.ravel(), most, gates.seed + 1)] = 1.0
            gates.multiply(part.names, mask.reshape(scores.shape))
            facts[name]["pieces"] = mask.reshape(scores.shape).astype(int).tolist()
        if hosts.writes():
            said = {"of": prompt.manifest["sha256"], "by": self.by}
            rows = facts.pop("rows", {})
            if rows:
                rows = {"rows": rows.pop("numbers"), **rows}
            settings = {**prompt.manifest["settings"], **self._lengths()}
            pruned = {"settings": settings, "metric": None, "pruned": {**said, **rows, **facts}}
            save_prompt(self.files(done)[0], gates.arrays, {**prompt.manifest, **pruned})

    def _lengths(self) -> dict[str, int]:
        """What the manifest's settings say of how many rows and keys there are."""
        if not self.keep:
            return {"length": self.keep_keys or 0}
        keys = {} if self.keep_keys is None else {"keys": self.keep_keys}
        return {"length": self.keep, **keys}

    def _parts(self, arrays: Mapping[str, Any]) -> dict[str, "Part"]:
        """What is pruned: the rows, and the keys of each attention that has some."""
        names: dict[str, Names] = {}
        if "encoder" in arrays:
            names["rows"] = (ROWS,) if ROWS in arrays else ("encoder",)
        if self.keep_keys is not None:
            of = {f"{attention}_keys": place for attention, place in ATTENTIONS.items()}
            pairs = {name: (f"{place}/keys", f"{place}/values") for name, place in of.items()}
            names |= {name: pair for name, pair in pairs.items() if pair[0] in arrays}
        parts = {}
        for name, some in names.items():
            *layers, count, width = arrays[some[0]].shape
            kept = (self.keep, self.keep_pieces)
            if name != "rows":
                kept = (self.keep_keys or count, self.keep_key_pieces)
            if width % self.pieces:
                offender = Setting("PruneRows", "pieces", self.pieces)
                problem = f"a {'row' if name == 'rows' else 'key'} has {width} numbers"
                raise UserError(offender, problem, f"give a divisor of {width}")
            if kept[0] > count:
                offender = Setting("PruneRows", "keep_keys", kept[0])
                raise UserError(offender, f"the stage tunes {count} keys", f"give at most {count}")
            parts[name] = Part(some, tuple(layers), count, *kept)
        return parts

    def _best(self, scores: np.ndarray, count: int, seed: int) -> np.ndarray:
        """The numbers of so many of the best, ascending; or of any."""
        if self.by == "random":
            scores = np.random.default_rng(seed).permutation(len(scores))
        return np.sort(np.argsort(-scores, kind="stable")[:count])

    def rewire(self, later: Train, done: Done, files: Sequence[str]) -> Train:
        name = type(later.method).__name__
        method = later.method.begun_from(files[0], self.keep)
        if method is None:
            problem = f"a later stage trains {name}, whose rows do not begin with a saved prompt's"
            raise UserError("PruneRows", problem, "give later stages prompt tuning")
        if self.keep_keys is not None:
            method = method.with_keys(self.keep_keys)
        if method is None:
            offender = Setting("PruneRows", "keep_keys", self.keep_keys)
            raise UserError(
                offender, f"a later stage trains {name}, which has no keys", "leave it out"
            )
        return dataclasses.replace(later, method=method)


class Part(NamedTuple):
    """Rows, or the keys of an attention, that are pruned.

    Attributes:
      names: of the arrays, which share their gates.
      layers: (L,), or () where there are none.
      count: how many rows or keys there are.
      keep, keep_pieces: how many stay; pieces of each layer in the mean, None: all.
    """

    names: Names
    layers: tuple[int, ...]
    count: int
    keep: int
    keep_pieces: int | None
