"""The model card of an exported prompt: what it is, what it is for, and how to load it."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt

LOAD = """from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

base = "{base}"
model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), "{where}")
tokenizer = AutoTokenizer.from_pretrained(base)
"""


def card(prompt: "Prompt", about: "About", base: str | None, kind: str) -> str:
    """`README.md` of a PEFT folder: the front matter of the hub, facts, and how to load it."""
    manifest = prompt.manifest
    named = {"base_model": base, "library_name": "peft", "pipeline_tag": "text2text-generation"}
    tags = {k: v for k, v in named.items() if v is not None}
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in tags.items())
    facts = {
        "adapter": kind,
        "method": manifest.get("method"),
        "task": manifest.get("task"),
        "backbone": about.backbone,
        "backbone's digest": (manifest.get("backbone") or {}).get("digest"),
        "steps": manifest.get("step"),
        "seed": manifest.get("seed"),
        "numbers": sum(x.size for x in prompt.arrays.values()),
    }
    scores = manifest.get("metric") or {}
    selection = manifest.get("selection") or {}
    facts |= {f"{name} ({selection.get('split', 'held out')})": v for name, v in scores.items()}
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value is not None)
    load = LOAD.format(base=base or "BACKBONE, as a folder of transformers", where="THIS FOLDER")
    return (
        f"---\n{front}\n---\n\n# {manifest.get('task') or 'A tuned prompt'}\n\n"
        f"A prompt for a frozen T5, trained by prompt-jax and written for PEFT.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n```python\n{load}```\n\n"
        "`report.json` says what was compared when it was written. Licence and limits are those of "
        "the backbone and of the data of the task.\n"
    )
