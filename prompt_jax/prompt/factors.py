"""Prompts of several tasks and languages in one table of rows, and which rows an example carries.

A method that has rows of its own for tasks or languages keeps all of them as one table [R, D]: the
rows of its first factor name by name, then those of the second, and so on. An example carries, of
every factor in turn, the rows of its own name. So routing is data: the slots that travel with a
batch (`layout.py`) are those of the example's rows. Rows of several tasks may be packed together,
and the T5 and the compiled step are those of a single prompt.

    task prompts            (Factor(by="task", names=("cb", "rte"), rows=100),)
    shared, then the task's (Factor(by="all", rows=50), Factor(by="task", names=..., rows=50))
    X-Gen's                 (Factor(by="language", ...), Factor(by="task", ...))
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from prompt_jax.errors import Setting, UserError
from prompt_jax.settings import nearest, settings
from prompt_jax.splits import typed

By = Literal["all", "task", "language"]
MEAN = "mean"  # in place of a name: the mean over all names of a factor


@settings
class Factor:
    """A part of every example's prompt.

    Attributes:
      by: whose the rows are: a `task`'s, a `language`'s, or the same for `all` examples.
      rows: how many an example carries.
      names: the tasks or languages. A task's name also stands for the tasks that begin with it and
        `_`; its language is the last part of its name, as in `xtreme_xnli_sw`.
      default: the language of tasks whose name ends in none of `names`; None: they are refused.
    """

    by: By
    rows: int
    names: tuple[str, ...] = ()
    default: str | None = None

    def check(self):
        if self.rows < 1:
            raise UserError(Setting("Factor", "rows", self.rows), remedy="give at least 1")
        if (self.by == "all") != (not self.names):
            raise UserError(Setting("Factor", "names", self.names), f"{self.by} {self._needs}")
        if len(set(self.names)) < len(self.names) or MEAN in self.names:
            raise UserError(
                Setting("Factor", "names", self.names),
                f"names must differ, and none may be {MEAN!r}",
            )
        if self.default is not None and self.default not in self.names:
            raise UserError(
                Setting("Factor", "default", self.default),
                "is none of Factor.names",
                nearest(self.default, self.names),
            )

    @property
    def _needs(self) -> str:
        return "takes none" if self.by == "all" else "needs at least one"

    @property
    def size(self) -> int:
        """Rows of the table."""
        return self.rows * max(len(self.names), 1)

    def place(self, task: str) -> int:
        """The number of the name that a task's examples carry.

        Raises:
          UserError: there is none.
        """
        if self.by == "all":
            return 0
        name = self._language(task) if self.by == "language" else self._task(task)
        if name is None:
            raise UserError(
                f"task {typed(task)!r}",
                f"the prompt has no rows for its {self.by}",
                nearest(bare(task), self.names),
            )
        return self.names.index(name)

    def _language(self, task: str) -> str | None:
        last = bare(task).rpartition("_")[2]
        return last if last in self.names else self.default

    def _task(self, task: str) -> str | None:
        fits = [n for n in self.names if f"{bare(task)}_".startswith(f"{n}_")]
        return max(fits, key=len, default=None)


def bare(task: str) -> str:
    """A task's name; of a file's task the file's.

    >>> bare("jsonl:tickets:0a1b2c3d"), bare("glue_rte")
    ('tickets', 'glue_rte')
    """
    return task.split(":")[1] if task.startswith("jsonl:") else task


Factors = tuple[Factor, ...]


def length(factors: Factors) -> int:
    """Rows that an example carries."""
    return sum(factor.rows for factor in factors)


def size(factors: Factors) -> int:
    """Rows of the table."""
    return sum(factor.size for factor in factors)


@functools.lru_cache(maxsize=1024)
def rows_of(factors: Factors, task: str) -> tuple[int, ...]:
    """The numbers of the rows that the examples of a task carry, in their order.

    >>> rows_of((Factor(by="all", rows=1), Factor(by="task", rows=2, names=("a", "b"))), "b")
    (0, 3, 4)
    """
    numbers: list[int] = []
    start = 0
    for factor in factors:
        first = start + factor.place(task) * factor.rows
        numbers += range(first, first + factor.rows)
        start += factor.size
    return tuple(numbers)


def folded(
    factors: Factors, arrays: Mapping[str, np.ndarray], names: Mapping[str, str], path: str
) -> dict[str, np.ndarray]:
    """The arrays with a plain `encoder` [P, D], of one task and language, out of its table [R, D].

    `names`: {"task": NAME, "language": NAME}, what the factors ask for; NAME may be `mean`. `path`
    is for messages.

    Raises:
      UserError: a name that is missing, unknown or not asked for.
    """
    asked = {factor.by for factor in factors} - {"all"}
    if wrong := sorted(asked ^ set(names)):
        what = "missing" if wrong[0] in asked else "not asked for"
        raise UserError(f"prompt {path!r}", f"{wrong[0]}= is {what}", f"it has {told(factors)}")
    parts, start = [], 0
    for factor in factors:
        rows = arrays["encoder"][start : start + factor.size]
        parts.append(_chosen(factor, rows.reshape(-1, factor.rows, rows.shape[1]), names, path))
        start += factor.size
    return {**arrays, "encoder": np.concatenate(parts)}


def _chosen(factor: Factor, rows, names: Mapping[str, str], path: str) -> np.ndarray:
    """Of rows [N, rows, D] those of one name."""
    if factor.by == "all":
        return rows[0]
    name = names[factor.by]
    if name == MEAN:
        return rows.mean(axis=0)
    if name not in factor.names:
        raise UserError(f"prompt {path!r}", f"no {factor.by} {name!r}", nearest(name, factor.names))
    return rows[factor.names.index(name)]


def told(factors: Factors) -> str:
    """
    >>> told((Factor(by="task", rows=2, names=("cb", "rte")),))
    'rows for each task (cb, rte)'
    """
    of = [f"{f.by} ({', '.join(f.names)})" for f in factors if f.by != "all"]
    return f"rows for each {' and '.join(of)}" if of else "the same rows for all"


def chosen(path: str) -> tuple[str, dict[str, str]]:
    """A prompt's path and the names after it.

    >>> chosen("runs/x/prompt/best?task=xnli&language=sw")
    ('runs/x/prompt/best', {'task': 'xnli', 'language': 'sw'})
    """
    where, mark, query = path.partition("?")
    names = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(names) - {"task", "language"})
    if unknown or (mark and not names):
        wrong = ", ".join(unknown) or repr(query)
        raise UserError(f"prompt {path!r}", f"{wrong} after '?'", "give task=, language=")
    return where, names


def of_manifest(value: Any) -> Factors:
    """The factors that a manifest holds."""
    return tuple(Factor(**{k: v for k, v in entry.items() if k != "class"}) for entry in value)
