"""The verb `untrained`; nothing heavy is imported before it runs."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from prompt_jax.cli.answering import (
    BatchSize,
    Dtype,
    LengthNormalised,
    OtherBackbone,
    Vocabulary,
    WeightsDtype,
)
from prompt_jax.cli.options import (
    Backbone,
    DataDir,
    Debug,
    InputLength,
    Json,
    MethodsModules,
    TargetLength,
    TasksModules,
    import_methods,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_facts, print_json
from prompt_jax.errors import UserError
from prompt_jax.paths import check_writable


def untrained(
    method: Annotated[
        str, typer.Option("--method", metavar="METHOD", help="gda, tfup, tfup_t or zpe.")
    ],
    backbone: Backbone,
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A task with labels.")],
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="Split to answer.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="DIR", help="Artefact or .npy; zpe takes several. Repeatable."
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="Text in which {inputs} is the row's; zpe takes several. Repeatable.",
        ),
    ] = None,
    fit_split: Annotated[
        str,
        typer.Option(
            "--fit_split",
            metavar="SPLIT",
            help="Split that gda's head and a cache are made from.",
        ),
    ] = "train",
    per_class: Annotated[
        int | None,
        typer.Option("--per_class", metavar="K", min=1, help="Fit to K rows of each label only."),
    ] = None,
    sample_seed: Annotated[
        int, typer.Option("--sample_seed", metavar="N", min=0, help="Seed that chooses them.")
    ] = 0,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            metavar="A",
            help="Weight of the head; by default gda chooses it on --dev_split.",
        ),
    ] = None,
    dev_split: Annotated[
        str, typer.Option("--dev_split", metavar="SPLIT", help="Rows that choose gda's alpha.")
    ] = "validation",
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Plain texts, one a line, by which zpe corrects its members.",
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="zpe: use the surest member only.")] = False,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="FILE", help="Use this saved head instead of fitting one."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="Save the head here (safetensors)."),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            "--predictions", metavar="FILE.jsonl", help="Write every answer, with its scores."
        ),
    ] = None,
    length_normalised: LengthNormalised = False,
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    batch_size: BatchSize = 32,
    max_examples: Annotated[
        int | None,
        typer.Option("--max_examples", metavar="N", min=1, help="Answer only the first N."),
    ] = None,
    input_length: InputLength = None,
    target_length: TargetLength = None,
    dtype: Dtype = None,
    weights_dtype: WeightsDtype = None,
    vocabulary: Vocabulary = None,
    allow_other_backbone: OtherBackbone = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Ranks a task's labels without training the model.

    By a head (gda), a cache (tfup), one with trained keys (tfup_t), or weighted templates and
    prompts (zpe).

    \b
    Example:
      prompt-jax untrained --method=gda --backbone=nano --task=empath_topic --split=test
    """
    use_data_dir(data_dir)
    import_methods(methods_module)
    import_tasks(tasks_module)
    if output is not None and method == "zpe":
        raise UserError(f"--output={output}", "zpe has no head", "leave it out")
    from prompt_jax.evaluate.fitted import Untrained
    from prompt_jax.evaluate.opening import opening
    from prompt_jax.evaluate.untrained import answer_untrained

    for name, path in (("--predictions", predictions), ("--output", output)):
        if path is not None:
            check_writable(path, name)
    how = Untrained(
        method=method,
        templates=tuple(template or ["{inputs}"]),
        fit_split=fit_split,
        per_class=per_class,
        sample_seed=sample_seed,
        alpha=alpha,
        dev_split=dev_split,
        texts=texts,
        best=best,
        head=head,
    )
    asked = opening(
        backbone,
        prompt or [],
        input_length=input_length,
        target_length=target_length,
        dtype=dtype,
        weights_dtype=weights_dtype,
        vocabulary=vocabulary,
        allow_other_backbone=allow_other_backbone,
    )
    report, rows = answer_untrained(
        asked,
        task,
        split,
        how,
        batch_size=batch_size,
        max_examples=max_examples,
        length_normalised=length_normalised,
        output=output,
    )
    if predictions is not None:
        lines = [jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        Path(predictions).write_text("".join(lines), encoding="utf-8")
    if json:
        print_json(report)
    else:
        print_facts(f"{task}, {split}", report)
