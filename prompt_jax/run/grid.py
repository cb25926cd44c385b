"""A grid of settings: which members a farm has, and what each is called."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.recipe.config import Config

Load = Callable[[Sequence[str]], Config]  # bindings -> the recipe with them


@dataclass(frozen=True)
class Member:
    """One run of a farm.

    Attributes:
      name: made of its values; the name of its folder.
      folder: below the farm's model_dir.
      values: of the grid's settings.
      recipe: with these values.
    """

    name: str
    folder: str
    values: dict[str, Any]
    recipe: Config

    @property
    def settings(self) -> Any:
        return self.recipe.root


def members_of(grid: Mapping[str, Sequence[Any]], load: Load) -> list[Member]:
    """A member for each choice of one value of every setting, in the grid's order.

    >>> [values_of({"SEED": (0, 1), "LEARNING_RATE": (0.1,)})[1]]
    [{'SEED': 1, 'LEARNING_RATE': 0.1}]
    """
    names: dict[str, dict[str, Any]] = {}
    for values in values_of(grid):
        name = name_of(values)
        if name in names:
            raise UserError("FARM", f"{names[name]} and {values} are both called {name!r}")
        names[name] = values
    bindings = {name: [*bindings_of(values), "FARM=None"] for name, values in names.items()}
    return [Member(n, f"members/{n}", v, load(bindings[n])) for n, v in names.items()]


def seeds_of(seeds: Sequence[int], load: Load) -> list[Member]:
    """A member for each seed, in `seed_N`."""
    return [
        Member(f"seed_{seed}", f"seed_{seed}", {"SEED": seed}, load([f"SEED={seed}"]))
        for seed in seeds
    ]


def values_of(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The grid's points; the last setting changes fastest."""
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def name_of(values: Mapping[str, Any]) -> str:
    """The name of a member.

    >>> name_of({"LEARNING_RATE": 0.3, "SEED": 1})
    'LEARNING_RATE_0.3-SEED_1'
    """
    words = [f"{name}_{value}" for name, value in values.items()]
    return re.sub(r"[^\w.+-]+", "_", "-".join(words)).strip("_")


def bindings_of(values: Mapping[str, Any]) -> list[str]:
    """The values as a command would bind them: `@NAME()` and `%MACRO` are references.

    >>> bindings_of({"SEED": 1, "TASK": "trec", "SoftPrompt.init": "@UniformInit()"})
    ['SEED=1', "TASK='trec'", 'SoftPrompt.init=@UniformInit()']
    """
    return [
        f"{name}={value}"
        if isinstance(value, str) and value[:1] in "@%" and value
        else f"{name}={value!r}"
        for name, value in values.items()
    ]
