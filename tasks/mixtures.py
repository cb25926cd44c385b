"""Mixtures named by their members: `glue_sst2+cr+trec`, or `glue_sst2+cr?cap=65536`.

Rates are proportional to the examples of each training split, a task counting for at most `cap`
(2^19 where it is not given), as T5 and SPoT mix (Raffel et al. 2020, section 3.5.2; Vu et al.
2022, section 3.1). They are counted when they are needed.
"""

from collections.abc import Sequence
from functools import partial

import seqio

from prompt_jax.errors import UserError
from prompt_jax.splits import COLUMNS

CAP = 2**19


def mixture_name(tasks: Sequence[str], cap: int = CAP) -> str:
    """The name under which `text.get_task` finds the mixture of these tasks.

    >>> mixture_name(["cr", "trec", "cr"])
    'cr+trec'
    >>> mixture_name(["cr+trec", "rte"], cap=1000)
    'cr+trec+rte?cap=1000'
    """
    members = dict.fromkeys(part for task in tasks for part in task.partition("?")[0].split("+"))
    return "+".join(members) + ("" if cap == CAP else f"?cap={cap}")


def register(name: str, tasks: Sequence[seqio.Task]) -> seqio.Mixture:
    """Registers the mixture `name` of the tasks that stand between its signs.

    Raises:
      UserError: a cap that is no positive number.
    """
    cap = parse(name)[1]
    rate = partial(seqio.mixing_rate_num_examples, maximum=cap)
    return seqio.MixtureRegistry.add(name, [(task.name, rate) for task in tasks])


def parse(name: str) -> tuple[list[str], int]:
    """The members of a name, and the cap.

    >>> parse("cr+trec?cap=1000")
    (['cr', 'trec'], 1000)
    >>> parse("cr+f.csv?inputs=text&targets=label")
    (['cr', 'f.csv?inputs=text&targets=label'], 524288)
    """
    members, asked, option = name.rpartition("?")
    key, _, cap = option.partition("=")
    if not asked or key in COLUMNS:  # `?` of a file
        return name.split("+"), CAP
    if key != "cap" or not cap.isdecimal() or int(cap) < 1:
        raise UserError(f"mixture '{name}'", "after ? only cap=N is known, with N at least 1")
    return members.split("+"), int(cap)
