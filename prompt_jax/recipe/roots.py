"""What a recipe builds: a run, or a program of stages, which fewer verbs take."""

from collections.abc import Callable, Container, Sequence

from prompt_jax.errors import UserError

PROGRAMS = {"Stages": "train", "Pretrain": "pretrain"}  # and the verb that runs each


def choose(
    root: str | Sequence[str], registered: Container[str], binds: Callable[[str], bool]
) -> str:
    """The root; of several the first of which the recipe binds a parameter, else the last.

    Raises:
      UserError: the recipe is a program, and that is no root.
    """
    roots = [root] if isinstance(root, str) else root
    assert all(name in registered for name in roots), f"{roots} are not registered"
    for name, verb in PROGRAMS.items():
        if binds(name) and name not in roots:
            raise UserError(
                f"{name}.stages",
                (
                    "is bound, so that the recipe is a program of several runs: `prompt-jax "
                    f"{verb}` takes it"
                ),
                "give a recipe of one run here",
            )
    return next((name for name in roots if binds(name)), roots[-1])
