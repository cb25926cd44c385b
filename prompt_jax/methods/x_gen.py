"""Factorised prompts for generation across languages: rows of the language, then rows of the task.

Vu et al. 2022 (https://arxiv.org/abs/2205.12647), section 5: with tables Lang [N_l, P_l, D] and
Task [N_t, P_t, D] the prompt of an example is [Lang_l; Task_t], so that a pair that was never
trained together has a prompt as well. The paper trains both tables on seven unsupervised tasks in
18 languages, then the target task's rows beside the fixed rows of English (`trains = 'task'`,
`start`), and takes the rows of another language to answer in it.

The language of a task is the last part of its name (`wiki_lingua_sw`); the saved prompt of a pair
is `DIR?language=sw&task=wiki_lingua`, the average that the pair has to beat
`DIR?language=mean&task=mean`.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, FixedParam, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init, UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.factors import Factor
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import at_least, settings

Table = Literal["language", "task"]
TABLES: tuple[Table, ...] = ("language", "task")


@settings
class XGen(PromptMethod):
    """Settings of factorised prompts; their groups are `language` and `task`.

    Attributes:
      languages: codes, the ends of tasks' names.
      tasks: names of tasks without their language.
      language_length, task_length: P_l and P_t (the paper: 100 together).
      default_language: of tasks whose name ends in none of `languages`; None: they are refused.
      trains: `both` tables, or one beside the other, which `start` gives.
      start: a saved factorised prompt; the rows of its names begin here, all others by `init`.
      init: how rows begin (the paper: uniform).
      placement: where the rows stand.
    """

    groups: ClassVar = {"language": "language", "task": "task"}
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    language_length: int = 50
    task_length: int = 50
    default_language: str | None = None
    trains: Literal["both", "language", "task"] = "both"
    start: str | None = None
    init: Init = UniformInit()
    placement: Placement = "prefix"

    def check(self):
        lengths = {"language_length": self.language_length, "task_length": self.task_length}
        at_least("XGen", 1, lengths)
        for field, names in (("languages", self.languages), ("tasks", self.tasks)):
            if not names:
                raise UserError(Setting("XGen", field, ()), remedy="give at least one name")
        if self.trains != "both" and self.start is None:
            raise UserError(
                Setting("XGen", "trains", self.trains),
                "the other rows are fixed",
                "give XGen.start, the saved prompt that they come from",
            )
        _ = self.layout

    @property
    def layout(self) -> PromptLayout:
        language = Factor(
            by="language",
            rows=self.language_length,
            names=self.languages,
            default=self.default_language,
        )
        task = Factor(by="task", rows=self.task_length, names=self.tasks)
        length = self.language_length + self.task_length
        return PromptLayout(encoder=length, placement=self.placement, factors=(language, task))

    def create(self, key: jax.Array, start: Start) -> "FactorTables":
        tables: dict[Table, np.ndarray] = {}
        for n, (name, factor) in enumerate(zip(TABLES, self.layout.factors, strict=True)):
            keys = jax.random.split(jax.random.fold_in(key, n), len(factor.names))
            each = zip(keys, factor.names, strict=True)
            tables[name] = np.stack([start.one(self.init, k, factor.rows, n) for k, n in each])
        if self.start is not None and (saved := start.prompt(self.start, "XGen.start")):
            self._begin(tables, saved)
        return FactorTables(self, tables)

    def _begin(self, tables: dict[Table, np.ndarray], saved: Any) -> None:
        """Puts the saved rows of the same names into `tables`."""
        start, at = self.start, 0
        there = {name: factor for factor in saved.layout.factors if (name := factor.by) in TABLES}
        for name, mine in zip(TABLES, self.layout.factors, strict=True):
            missing = [n for n in mine.names if name not in there or n not in there[name].names]
            if missing and self.trains not in ("both", name):
                raise UserError(
                    Setting("XGen", "start", start), f"has no rows of {name} {missing[0]!r}"
                )
        for factor in saved.layout.factors:
            rows = saved.arrays["encoder"][at : at + factor.size]
            at += factor.size
            if factor.by in TABLES:
                self._take(tables, factor, rows.reshape(-1, factor.rows, rows.shape[1]))

    def _take(self, tables, factor: Factor, rows: np.ndarray) -> None:
        mine = self.languages if factor.by == "language" else self.tasks
        table = tables[factor.by]
        if rows.shape[1:] != table.shape[1:]:
            raise UserError(
                Setting("XGen", "start", self.start),
                (
                    f"has {factor.by} rows {list(rows.shape[1:])}, the run needs "
                    f"{list(table.shape[1:])}"
                ),
                (
                    f"set XGen.{factor.by}_length to {factor.rows}, or take the backbone "
                    "that it was tuned for"
                ),
            )
        for n, name in enumerate(factor.names):
            if name in mine:
                table[mine.index(name)] = rows[n]

    def count(self, config: T5Config) -> int:
        """N_l P_l D + N_t P_t D, of the tables that train."""
        sizes = zip(TABLES, self.layout.factors, strict=True)
        return config.emb_dim * sum(f.size for name, f in sizes if self.trains in ("both", name))


class FactorTables(nnx.Module):
    """Owns float32 [N_l, P_l, D] and [N_t, P_t, D]."""

    def __init__(self, method: XGen, tables: dict[Table, np.ndarray]):
        self.language, self.task = (
            (PromptParam if method.trains in ("both", name) else FixedParam)(
                jnp.asarray(tables[name], jnp.float32)
            )
            for name in TABLES
        )

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        tables = (self.language[...], self.task[...])
        rows = [table.reshape(-1, table.shape[-1]) for table in tables]
        return PromptBundle(encoder=jnp.concatenate(rows)[None])
