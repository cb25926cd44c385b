"""What a recipe builds: a run, or a program of stages, which fewer verbs take."""

from collections.abc import Callable, Sequence

from prompt_jax.errors import UserError

PROGRAMS = {"Stages": "train", "Pretrain": "pretrain"}  # and the verb that runs each


def choose(roots: Sequence[str], binds: Callable[[str], bool]) -> str:
    """Of `roots` the first of which the recipe binds a parameter, else the last.

    Raises:
      UserError: the recipe is a program, and none of `roots`.
    """
    for name, verb in PROGRAMS.items():
        if binds(name) and name not in roots:
            raise UserError(
                f"{name}.stages is bound, so that the recipe is a program of several runs: "
                f"`prompt-jax {verb}` takes it; give a recipe of one run here"
            )
    return next((name for name in roots if binds(name)), roots[-1])
