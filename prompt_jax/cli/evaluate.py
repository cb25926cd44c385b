"""The verbs `eval` and `infer`; nothing heavy is imported before one of them runs."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from prompt_jax import hosts
from prompt_jax.cli.answering import (
    BatchSize,
    Beams,
    Constrained,
    Continuous,
    Dtype,
    LengthNormalised,
    Mode,
    OtherBackbone,
    Seed,
    Separator,
    Temperature,
    TopK,
    TopP,
    Vocabulary,
    WeightsDtype,
    answering_of,
    sampling_of,
)
from prompt_jax.cli.options import (
    Backbone,
    Coordinator,
    DataDir,
    Debug,
    DryRun,
    InputLength,
    Json,
    MethodsModules,
    Process,
    Processes,
    StartTimeout,
    TargetLength,
    TasksModules,
    import_methods,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import (
    print_confusion,
    print_facts,
    print_json,
    print_plans,
    print_table,
)
from prompt_jax.errors import UserError
from prompt_jax.paths import check_writable


def evaluate(
    backbone: Backbone,
    task: Annotated[
        str,
        typer.Option("--task", metavar="TASK", help="SeqIO task or mixture, or a file of rows."),
    ],
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="train, validation, test, ...")
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="DIR",
            help="Artefact or .npy; repeat to compare and vote; none: the bare backbone.",
        ),
    ] = None,
    mode: Mode = "generate",
    length_normalised: LengthNormalised = False,
    beams: Beams = 1,
    temperature: Temperature = None,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    continuous: Continuous = False,
    constrained: Constrained = False,
    separator: Separator = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            "--predictions", metavar="FILE.jsonl", help="Write every answer, with its score."
        ),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            "--journal",
            metavar="FILE.jsonl",
            help="Keep the answers here; the same command continues after an interruption.",
        ),
    ] = None,
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    batch_size: BatchSize = 32,
    max_examples: Annotated[
        int | None,
        typer.Option("--max_examples", metavar="N", min=1, help="Take only the first N."),
    ] = None,
    input_length: InputLength = None,
    target_length: TargetLength = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots",
            metavar="K",
            min=0,
            help="How many training examples stand before each input.",
        ),
    ] = None,
    shots_seed: Annotated[
        int | None, typer.Option("--shots_seed", metavar="N", min=0, help="Seed that chooses them.")
    ] = None,
    dtype: Dtype = None,
    weights_dtype: WeightsDtype = None,
    vocabulary: Vocabulary = None,
    allow_other_backbone: OtherBackbone = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    start_timeout: StartTimeout = hosts.START_TIMEOUT,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Scores saved prompts, or the bare backbone, on a task.

    \b
    Example:
      prompt-jax eval --prompt=/tmp/quickstart/prompt/best --backbone=nano \\
        --task=vader_polarity --split=validation
    """
    if dry_run:
        from prompt_jax.doctor.plan import plan_of_eval

        use_data_dir(data_dir)
        import_tasks(tasks_module)
        files = [name for name in (predictions, journal) if name is not None]
        lengths = (input_length, target_length)
        asked = (backbone, prompt or [], task, split, batch_size, max_examples, lengths, files)
        print_plans([plan_of_eval(*asked)], "", json)
        return
    place = hosts.find(coordinator, processes, process)
    if place is not None:
        hosts.watched()
    use_data_dir(data_dir)
    import_methods(methods_module)
    import_tasks(tasks_module)
    answering = answering_of(
        mode=mode,
        length_normalised=length_normalised,
        beams=beams,
        seed=seed,
        continuous=continuous,
        constrained=constrained,
        separator=separator,
        sampling=sampling_of(temperature, top_k, top_p),
    )
    from prompt_jax.evaluate.opening import opening
    from prompt_jax.evaluate.prompts import evaluate_prompts

    settings: dict[str, Any] = dict(
        input_length=input_length,
        target_length=target_length,
        dtype=dtype,
        weights_dtype=weights_dtype,
        vocabulary=vocabulary,
        allow_other_backbone=allow_other_backbone,
    )
    options: dict[str, Any] = dict(
        batch_size=batch_size,
        max_examples=max_examples,
        shots=shots,
        shots_seed=shots_seed,
        answering=answering,
        journal=journal,
    )
    if predictions is not None:
        check_writable(predictions, "--predictions")
    about = repr([backbone, prompt, task, split, settings, options])
    with hosts.joined(place, start_timeout, about=about):
        asked = opening(backbone, prompt or [], **settings)
        report, rows = evaluate_prompts(asked, task, split, **options)
        if not hosts.writes():
            return
        if predictions is not None:
            lines = [jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            Path(predictions).write_text("".join(lines), encoding="utf-8")
        if json:
            print_json(report)
        else:
            _print_report(task, split, report)


def _print_report(asked: str, split: str, report: dict[str, Any]) -> None:
    from prompt_jax.splits import readable

    def named(row: dict[str, Any]) -> dict[str, Any]:
        return {readable(name, asked): value for name, value in row.items()}

    facts, tables = dict(report), dict(report.get("confusion", {}))
    facts.pop("confusion", None)
    prompts, title = facts.pop("prompts", []), f"{asked}, {split}"
    if prompts:
        summed = [{"prompt": name, **facts.pop(name)} for name in ("mean", "vote")]
        print_table(title, [named(row) for row in (*prompts, *summed)])
    else:
        print_facts(title, named(facts))
    for task, table in named(tables).items():
        if len(table) > MANY_LABELS:
            print_table(f"{task}: the commonest mistakes", _mistakes(table))
            continue
        print_confusion(f"{task}: rows by target and output", table)


MANY_LABELS = 9  # more columns than a terminal is wide


def _mistakes(table: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Of a table {target: {output: rows}} the ten largest cells where the two differ."""
    cells = [
        {"target": target, "output": output, "rows": rows}
        for target, outputs in table.items()
        for output, rows in outputs.items()
        if output != target and rows
    ]
    return sorted(cells, key=lambda cell: -cell["rows"])[:10]


def infer(
    backbone: Backbone,
    input: Annotated[
        str, typer.Option("--input", metavar="FILE", help="Rows: JSONL, CSV, TSV, JSON or Parquet.")
    ],
    output: Annotated[
        str, typer.Option("--output", metavar="OUT.jsonl", help="The rows with predictions.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="DIR", help="Artefact or .npy; without it the bare backbone."
        ),
    ] = None,
    mode: Mode = "generate",
    choice: Annotated[
        list[str] | None,
        typer.Option(
            "--choice",
            metavar="TEXT",
            help="A choice to rank, for rows that bring none. Repeatable.",
        ),
    ] = None,
    length_normalised: LengthNormalised = False,
    beams: Beams = 1,
    temperature: Temperature = None,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    continuous: Continuous = False,
    constrained: Constrained = False,
    separator: Separator = None,
    shard: Annotated[
        str,
        typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts, I from 0."),
    ] = "0/1",
    methods_module: MethodsModules = None,
    batch_size: BatchSize = 32,
    input_length: InputLength = None,
    target_length: TargetLength = None,
    dtype: Dtype = None,
    weights_dtype: WeightsDtype = None,
    vocabulary: Vocabulary = None,
    allow_other_backbone: OtherBackbone = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Answers the rows of a file. Run it again with the same output to continue.

    \b
    Example:
      prompt-jax infer --prompt=/tmp/quickstart/prompt/best --backbone=nano \\
        --input=rows.jsonl --output=answers.jsonl
    """
    import_methods(methods_module)
    if mode not in ("generate", "rank", "head"):
        raise UserError(f"--mode={mode}", "infer has generate, rank and head")
    if mode == "head" and prompt is None:
        raise UserError("--mode=head", "no prompt, so no head", "give the --prompt that has one")
    answering = answering_of(
        mode=mode,
        length_normalised=length_normalised,
        beams=beams,
        seed=seed,
        continuous=continuous,
        constrained=constrained,
        separator=separator,
        sampling=sampling_of(temperature, top_k, top_p),
    )
    from prompt_jax.evaluate.infer import infer
    from prompt_jax.evaluate.opening import opening

    asked = opening(
        backbone,
        [] if prompt is None else [prompt],
        input_length=input_length,
        target_length=target_length,
        dtype=dtype,
        weights_dtype=weights_dtype,
        vocabulary=vocabulary,
        allow_other_backbone=allow_other_backbone,
    )
    report = infer(
        asked,
        input,
        output,
        answering=answering,
        choices=choice or [],
        shard=shard,
        batch_size=batch_size,
        show=True,
    )
    if json:
        print_json(report)
    else:
        print_facts(output, report)
