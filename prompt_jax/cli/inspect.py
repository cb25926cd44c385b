"""The verb `inspect`; nothing heavy is imported before it runs."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from prompt_jax.cli.options import DataDir, Debug, Json, TasksModules, import_tasks, use_data_dir
from prompt_jax.cli.show import print_json, print_table


def inspect(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="DIR", help="Artefact or .npy; give a second one to compare them."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="MODEL_DIR",
            help="Take the prompt of a run, and show how its rows moved.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="NAME", help="By default that of the prompt."),
    ] = None,
    nearest: Annotated[
        int,
        typer.Option("--nearest", metavar="N", min=1, help="How many pieces to name for each row."),
    ] = 5,
    common: Annotated[
        int,
        typer.Option(
            "--common", metavar="N", min=0, help="Look among the N commonest pieces; 0: among all."
        ),
    ] = 5000,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="Show how much attention each row gets, layer by layer."),
    ] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Show the score without each row.")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Task for --attention and --ablation; by default the prompt's own.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="Split of that task.")
    ] = "validation",
    max_examples: Annotated[
        int, typer.Option("--max_examples", metavar="N", min=1, help="Most examples of that task.")
    ] = 64,
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE.png", help="Also draw it all, with matplotlib."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Shows what the rows of a prompt look like.

    Nearest pieces of the vocabulary, norms, similarity, drift, attention and ablation.

    \b
    Example:
      prompt-jax inspect --prompt=runs/quickstart/prompt/best --run=runs/quickstart
    """
    from prompt_jax.errors import UserError
    from prompt_jax.inspect import pictures
    from prompt_jax.inspect.prompt import Asked, inspect_prompts

    prompts = prompt or []
    if len(prompts) > 2:
        raise UserError(f"--prompt={prompts[2]}", "two are compared at a time", "give two")
    pictures.check(picture)
    use_data_dir(data_dir)
    import_tasks(tasks_module)
    asked = Asked(common, nearest, task, split, max_examples, attention, ablation)
    report = inspect_prompts(prompts, asked, backbone=backbone, run=run)
    if picture is not None:
        pictures.prompt_panels(report, picture)
    if json:
        print_json(report)
        return
    for title, rows in _tables(report):
        print_table(title, rows)
    print(report["warning"])


def _tables(report: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for facts in report["prompts"]:
        norms = facts["norms_of_pieces"]
        for side, rows in facts["sides"].items():
            title = (
                f"{facts['prompt']}: {side}, nearest of {facts['compared_pieces']:,} pieces, whose "
                f"norms are {norms['5 %']:.3g} to {norms['95 %']:.3g} (5 to 95 %); mean cosine "
                f"between rows {rows['mean_cosine_of_rows']:.3f}"
            )
            yield (
                title,
                [
                    {
                        "row": n,
                        "norm": round(row["norm"], 3),
                        "by cosine": _pieces(row["cosine"]),
                        "by distance": _pieces(row["euclid"]),
                    }
                    for n, row in enumerate(rows["rows"])
                ],
            )
        if "attention" in facts:
            rows = enumerate(zip(*facts["attention"], strict=True))
            title = f"attention of the text to each row by layer, % ({facts['examples']} examples)"
            yield (
                title,
                [
                    {"row": n, **{str(layer): f"{100 * v:.2f}" for layer, v in enumerate(values)}}
                    for n, values in rows
                ],
            )
        if "ablation" in facts:
            yield from _ablated(facts["ablation"], facts["examples"])
    if "drift" in report:
        yield (
            "distance of the rows from step 0",
            [
                {
                    "step": row["step"],
                    **{
                        f"{side} {name}": value
                        for side, values in row.items()
                        if side != "step"
                        for name, value in values.items()
                    },
                }
                for row in report["drift"]
            ],
        )
    for side, facts in report.get("compared", {}).items():
        title = (
            f"{side}, two prompts: cosine {facts['mean_cosine_of_same_rows']:.3f} of rows in the "
            f"same place, {facts['mean_cosine_of_best_pairs']:.3f} of the best pairs"
        )
        yield title, [{"row": a, "of the other": b, "cosine": c} for a, b, c in facts["best_pairs"]]


def _ablated(scores: dict[str, Any], examples: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for side, rows in scores["without"].items():
        yield (
            f"{side}: scores without each row ({examples} examples)",
            [
                {"without row": "none", **scores["whole"]},
                *({"without row": n, **metrics} for n, metrics in enumerate(rows)),
            ],
        )


def _pieces(pairs: list[Any]) -> str:
    return "  ".join(f"{piece} {value:.2f}" for piece, value in pairs)
