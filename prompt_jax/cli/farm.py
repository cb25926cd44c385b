"""`train` of many runs: a recipe's FARM, and `--seeds`; nothing heavy is imported before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from prompt_jax import hosts
from prompt_jax.cli.show import print_json, print_table
from prompt_jax.errors import UserError

if TYPE_CHECKING:
    from prompt_jax.recipe.config import Config
    from prompt_jax.run.settings import Train

COLUMNS = ("name", "status", "step", "best", "best_step")  # of farm.jsonl that the table shows


@dataclass(frozen=True)
class MemberOptions:
    """Flags of `train`."""

    model_dir: str
    batch_digests: bool
    json: bool
    track: Sequence[str] = ()


def train_members(
    root: Any,
    seeds: str | None,
    load: "Callable[[Sequence[str]], Config]",
    run: "Callable[[Config, str], Any]",
    options: MemberOptions,
) -> bool:
    """Trains a grid or seeds, where the recipe or the command names some; False where neither does.

    `load` gives the recipe with more bindings, and `run` trains one of it in a folder.
    """
    from prompt_jax.run.settings import Train

    if not isinstance(root, Train) or (root.farm.grid is None and seeds is None):
        return False
    if seeds is None:
        _train_grid(root, load, options)
    else:
        _train_seeds(root, seeds, load, run, options)
    return True


def plans_of(
    root: Any,
    seeds: str | None,
    load: "Callable[[Sequence[str]], Config]",
    model_dir: str,
    track: Sequence[str] | None,
    profile: bool,
    batch_digests: bool,
) -> list[dict[str, Any]]:
    """What `train` would do, for `--dry_run`: one run, a program of stages, a grid, or seeds."""
    from prompt_jax.doctor import plan
    from prompt_jax.inspect import observers
    from prompt_jax.run.grid import members_of, seeds_of
    from prompt_jax.run.seeds import parse_seeds
    from prompt_jax.run.settings import Train
    from prompt_jax.run.stages import refuse_seeds

    also = plan.Also(observers.files(track or ()), profile, batch_digests)
    if not isinstance(root, Train):
        refuse_seeds(seeds)
        return plan.plan(root, model_dir, also)
    if seeds is None and root.farm.grid is None:
        return plan.plan(root, model_dir, also)
    if seeds is None:
        members = members_of(root.farm.grid or {}, load)
    else:
        _refuse_both(root, seeds)
        members = seeds_of(parse_seeds(seeds), load)
    return plan.plan_of_members(members, model_dir, root.farm, also)


def _refuse_both(root: "Train", seeds: str) -> None:
    if root.farm.grid:
        raise UserError(f"--seeds={seeds}", "the recipe has a FARM", "give it a line 'SEED': [...]")


def _train_grid(root: "Train", load, options: MemberOptions) -> None:
    from prompt_jax.inspect.observers import usual
    from prompt_jax.run.cores import spread
    from prompt_jax.run.farm import summary_of, train_farm
    from prompt_jax.run.grid import members_of

    members = members_of(root.farm.grid or {}, load)
    spread(root, min(root.farm.at_once, len(members)))
    rows = train_farm(
        members,
        options.model_dir,
        root.farm,
        observers=partial(usual, track=options.track),
        batch_digests=options.batch_digests,
        show=True,
    )
    if not hosts.writes():
        return
    if options.json:
        print_json({"members": rows, "summary": summary_of(rows)})
        return
    print_table("members", [{name: row.get(name) for name in COLUMNS} for row in rows])
    print_table("over seeds", summary_of(rows))


def _train_seeds(root: "Train", seeds: str, load, run, options: MemberOptions) -> None:
    """A farm of seeds; one by one where they cannot share a step."""
    from prompt_jax.inspect.observers import usual
    from prompt_jax.run.cores import spread
    from prompt_jax.run.farm import train_farm, unfit
    from prompt_jax.run.grid import seeds_of
    from prompt_jax.run.seeds import parse_seeds, train_seeds

    _refuse_both(root, seeds)
    members = {member.settings.seed: member for member in seeds_of(parse_seeds(seeds), load)}
    together = unfit(root) is None
    if together:
        spread(root, min(root.farm.at_once, len(members)))
        train_farm(
            list(members.values()),
            options.model_dir,
            root.farm,
            observers=partial(usual, track=options.track),
            batch_digests=options.batch_digests,
            show=True,
        )

    def run_one(seed: int, folder: str) -> Any:
        if not together:
            run(members[seed].recipe, folder)
        return members[seed].settings.selection

    summary = train_seeds(list(members), options.model_dir, run_one)
    if not hosts.writes():
        return
    if options.json:
        print_json(summary)
    else:
        rows = [{"metric": name, **facts} for name, facts in summary["metrics"].items()]
        print_table(f"seeds {seeds}", rows)
