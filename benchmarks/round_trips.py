"""Every kind of prompt to every format and back, each by the command that a user would give.

    python benchmarks/round_trips.py [--kinds=plain,lora] [--formats=npy,peft] [--output=FILE.jsonl]

Prompts are those of the serving benchmarks, of noise, for nano on the quickstart's task. `export`
itself has the format's own reader, in a new process, read what was written; here its report is put
into a table: the largest difference of a logit (a share of the largest logit), and whether greedy
ids and the tokenizer agree, or the line that says why a prompt cannot leave so. Exits with 1 where
an export failed that was not refused.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving_prompts import methods, prompt_of

from prompt_jax.backbone.load import load_backbone
from prompt_jax.export.formats import FORMATS
from prompt_jax.prompt.artefact import save_prompt

REFUSED = 2  # how a command exits that a user's mistake ended
TASK = {"task": "empath_topic", "input_length": 64, "target_length": 8}
MERGED = ("hf", "t5x")
TITLES = {"once": "computed once", "both": "suffix and decoder rows", "mixed": "of each input"}


def export(prompt: Path, form: str, merge: bool, folder: Path) -> dict[str, Any]:
    """What `prompt-jax export` made of it: its exit code, seconds, its report or last line."""
    output = folder / f"{form}{'_merged' * merge}{FORMATS[form].suffix}"
    command = [sys.executable, "-m", "prompt_jax", "export", f"--prompt={prompt}"]
    command += [f"--format={form}", f"--output={output}", *(["--merge"] * merge)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    facts: dict[str, Any] = {"rc": done.returncode, "seconds": round(time.monotonic() - began, 1)}
    reports = [output / "report.json", output.with_suffix(".report.json")]
    for report in filter(Path.is_file, reports):
        facts["report"] = json.loads(report.read_text())
    if done.returncode:
        facts["line"] = (done.stderr.strip().splitlines() or [""])[-1]
    return facts


def outcome(facts: dict[str, Any]) -> str:
    """A cell of the table."""
    if facts["rc"] == REFUSED:
        return "refused: " + facts["line"].removeprefix("prompt-jax: error: ")
    if facts["rc"]:
        return "FAILED: " + facts["line"]
    report = facts["report"]
    cells = ["rows equal"] if "rows_max_abs_diff" in report else []
    if "logits_max_abs_diff" in report:
        share = report["logits_max_abs_diff"] / max(1.0, report["logits_largest"])
        cells.append(f"logits of {report['logits_of']} to {share:.1e}")
    if "greedy_rows_equal" in report:
        cells.append(f"greedy ids of {report['greedy_rows_equal']} texts equal")
    if "tokenizer" in report:
        cells.append(f"tokenizer: {report['tokenizer']}")
    return "; ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(methods(4)))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--output")
    asked = parser.parse_args()
    for flag, given, known in (
        ("kinds", asked.kinds, methods(4)),
        ("formats", asked.formats, FORMATS),
    ):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"--{flag}: no {min(unknown)!r}; there are {', '.join(known)}")
    backbone, failed = load_backbone("nano", "float32"), False
    print("| prompt | format | outcome |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for number, kind in enumerate(asked.kinds.split(",")):
            prompt = prompt_of(backbone, kind, number, 4)
            folder = Path(temporary) / kind
            save_prompt(folder / "prompt", prompt.arrays, {**prompt.manifest, **TASK})
            for form in asked.formats.split(","):
                for merge in (False, True):
                    if merge != FORMATS[form].merges and not (merge and form in MERGED):
                        continue
                    facts = export(folder / "prompt", form, merge, folder)
                    failed |= facts["rc"] not in (0, REFUSED)
                    title = f"{form}{' --merge' * merge}"
                    print(f"| {TITLES.get(kind, kind)} | {title} | {outcome(facts)} |", flush=True)
                    if asked.output:
                        line = {"kind": kind, "format": title, **facts}
                        with open(asked.output, "a") as file:
                            file.write(json.dumps(line) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
