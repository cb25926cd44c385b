"""Takes tasks through the whole program by its commands: show, train ten steps, eval.

  python tests/task_battery.py --data_dir=DIR [--only=NAME,NAME]

DIR holds official files (`superglue/`, `xtreme/`) and, for XTREME, a multilingual SentencePiece
model in `spm/`. SuperGLUE runs on nano, XTREME on random weights with that vocabulary: every task
loads, renders, trains, decodes and scores; how well is not the matter. A line for each task.
"""

import argparse
import contextlib
import io
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROWS = 16  # that are answered
RECIPE = """
include 'methods/lester.gin'

PROMPT_LENGTH = 8
BACKBONE = 'nano'
TASK = 'super_glue_cb'
SPLIT = 'train'

Train.backbone = @Backbone()
Backbone.name = %BACKBONE
Backbone.dtype = 'float32'
Train.data = @Data()
Data.task = %TASK
Data.split = %SPLIT
Data.input_length = 96
Data.target_length = 16
Data.batch_size = 8
Data.max_examples = 64
Train.steps = 10
"""


@dataclass(frozen=True)
class Job:
    """A task, what its prompt is trained on, and what is scored.

    Attributes:
      trained: (task, split), or the name of the job whose prompt is taken.
      scored: (task, split).
      metric: one of its metrics, which must be a number.
      rows: that are answered.
    """

    trained: tuple[str, str] | str
    scored: tuple[str, str]
    metric: str
    mode: str = "generate"
    rows: int = ROWS


def _superglue(name: str, metric: str, mode: str = "generate") -> Job:
    task = f"super_glue_{name}"
    return Job((task, "train"), (task, "validation"), metric, mode)


XNLI, ENGLISH = "xtreme_xnli_sw", "xtreme_mlqa_en"
JOBS = {
    "boolq": _superglue("boolq", "accuracy"),
    "cb": _superglue("cb", "mean_3class_f1"),
    "copa": _superglue("copa", "accuracy", "rank"),
    "multirc": _superglue("multirc", "f1"),
    "record": _superglue("record", "em"),
    "rte": _superglue("rte", "accuracy"),
    "wic": _superglue("wic", "accuracy"),
    "wsc": _superglue("wsc", "accuracy"),
    "axb": Job("rte", ("super_glue_axb", "test"), "matthews_corrcoef"),
    "axg": Job("rte", ("super_glue_axg", "test"), "accuracy"),
    "xnli": Job((XNLI, "validation"), (XNLI, "test"), "accuracy"),
    "pawsx": Job(("xtreme_pawsx", "train"), ("xtreme_pawsx_de", "validation"), "accuracy"),
    "udpos": Job(("xtreme_udpos", "train"), ("xtreme_udpos_ta", "test"), "tag_f1"),
    "panx": Job(("xtreme_panx", "train"), ("xtreme_panx_sw", "validation"), "span_f1"),
    "xquad": Job((ENGLISH, "validation"), ("xtreme_xquad_th", "test"), "f1"),
    "mlqa": Job((ENGLISH, "validation"), ("xtreme_mlqa_hi", "validation"), "f1"),
    "tydiqa": Job(("xtreme_tydiqa", "train"), ("xtreme_tydiqa_in_language_sw", "train"), "f1"),
    "xcopa": Job(("xtreme_xcopa", "train"), ("xtreme_xcopa_ht", "test"), "accuracy"),
    "tatoeba": Job("xnli", ("xtreme_tatoeba_sw", "test"), "accuracy", "retrieve", 390),
    "bucc": Job("xnli", ("xtreme_bucc_zh", "validation"), "mining_f1", "mine", 500),
}


def command(*arguments: str) -> str:
    """What the program prints; SystemExit with its last line unless it ends well."""
    from prompt_jax.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    if code:
        raise SystemExit(f"prompt-jax {' '.join(arguments)}: exit code {code}: {err.getvalue()}")
    return out.getvalue()


def shown(job: Job, backbone: str, data_dir: str) -> int:
    """Pieces of the first row's inputs."""
    task, split = job.scored
    told = command(
        "tasks",
        "show",
        task,
        f"--split={split}",
        "--n=1",
        f"--backbone={backbone}",
        f"--data_dir={data_dir}",
        "--json",
    )
    row = json.loads(told)[0]
    assert row["inputs_pieces"][-1] == row["targets_pieces"][-1] == "</s>"
    return row["inputs_length"]


def trained(job: Job, backbone: str, data_dir: str, folder: Path) -> tuple[float, float]:
    """The loss per token of the first five and of the last five of ten steps."""
    recipe = folder.with_suffix(".gin")
    recipe.write_text(RECIPE)
    task, split = job.trained
    command(
        "train",
        f"--gin_file={recipe}",
        f"--model_dir={folder}",
        f"--data_dir={data_dir}",
        f"--gin.TASK={task}",
        f"--gin.SPLIT={split}",
        f"--gin.BACKBONE='{backbone}'",
        "--gin.Train.log_period=5",
    )
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {r["step"]: r["loss_per_token"] for r in records if r["kind"] == "train"}
    assert set(losses) == {5, 10} and all(map(math.isfinite, losses.values())), losses
    return losses[5], losses[10]


def scored(job: Job, backbone: str, data_dir: str, prompt: Path) -> dict[str, float]:
    """The metrics; every row has its answer and a score."""
    task, split = job.scored
    said = prompt.parent / f"{task}.jsonl"
    told = command(
        "eval",
        f"--backbone={backbone}",
        f"--prompt={prompt}",
        f"--task={task}",
        f"--split={split}",
        f"--mode={job.mode}",
        f"--max_examples={job.rows}",
        f"--data_dir={data_dir}",
        f"--predictions={said}",
        "--json",
    )
    report = json.loads(told)
    rows = [json.loads(line) for line in said.read_text().splitlines()]
    assert len(rows) == report["examples"] == job.rows, report
    assert all(math.isfinite(row["score"]) and "prediction" in row for row in rows)
    assert math.isfinite(report[job.metric])
    return {name: value for name, value in report.items() if isinstance(value, float)}


def run(name: str, data_dir: str, folder: Path) -> str:
    """Takes one task through, with the prompt of another where it has none; a line about it."""
    job, began = JOBS[name], time.monotonic()
    vocabulary = Path(data_dir) / "spm" / "nano_multi.32000.model"
    multilingual = job.scored[0].startswith("xtreme_")
    backbone = f"random:nano?seed=0&vocabulary={vocabulary}" if multilingual else "nano"
    pieces = shown(job, backbone, data_dir)
    owner = job.trained if isinstance(job.trained, str) else name
    model_dir, losses = folder / owner, f"prompt of {owner}"
    if owner == name:
        losses = "loss/token {:.3f} {:.3f}".format(*trained(job, backbone, data_dir, model_dir))
    elif not model_dir.exists():
        run(owner, data_dir, folder)
    metrics = scored(job, backbone, data_dir, model_dir / "prompt" / "last")
    values = "  ".join(f"{key} {value:.2f}" for key, value in metrics.items())
    task = f"{job.scored[0]} {job.scored[1]}"
    seconds = time.monotonic() - began
    return f"{task:38s} {pieces:4d} pieces  {losses:24s} {job.mode:8s} {values}  ({seconds:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--only", default=",".join(JOBS), help="names, with commas between")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{temporary}/compiled"
        for name in arguments.only.split(","):
            print(run(name, arguments.data_dir, Path(temporary)), flush=True)


if __name__ == "__main__":
    main()
