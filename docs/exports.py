"""What each method leaves as: the table of docs/reference/exports.md, asked of the formats."""

import jax
import numpy as np

from prompt_jax.export import merged
from prompt_jax.export.formats import FORMATS
from prompt_jax.methods.deep import DeepPrompt
from prompt_jax.methods.dept import DePT
from prompt_jax.methods.e2vpt import E2VPT
from prompt_jax.methods.ia3 import IA3
from prompt_jax.methods.lora import LoRA
from prompt_jax.methods.p_tuning import PTuning
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.model.bundle import Visibility
from prompt_jax.model.sizes import SIZES
from prompt_jax.prompt.artefact import Prompt

METHODS = {
    "`SoftPrompt`": SoftPrompt(length=4),
    "`SoftPrompt` with decoder rows": SoftPrompt(length=4, decoder_length=2),
    "`SoftPrompt` behind the text": SoftPrompt(length=4, placement="suffix"),
    "`SoftPrompt` that does not see the input": SoftPrompt(
        length=4, visibility=Visibility(input=False)
    ),
    "`SoftPrompt` between fields": SoftPrompt(length=4, placement="infix", marks=(5,)),
    "`PTuning`": PTuning(length=4),
    "`PrefixTuning`": PrefixTuning(length=2, hidden=None),
    "`PrefixTuning` of the decoder, before its text": PrefixTuning(
        length=2, hidden=None, attentions=("decoder",), positions="before"
    ),
    "`DeepPrompt`": DeepPrompt(length=2),
    "`E2VPT`": E2VPT(length=2, keys=2),
    "`DePT`": DePT(length=4, rank=2, max_length=8),
    "`LoRA`": LoRA(rank=2),
    "`IA3`": IA3(),
}


def prompts() -> dict[str, Prompt]:
    """A prompt of every kind, for nano; values do not matter."""
    found = {}
    for title, method in METHODS.items():
        module = method.create(jax.random.key(0), Shapes(SIZES["nano"]))
        found[title] = Prompt(method.fold(module), method.seen(), title)
    own = {"encoder": np.zeros((4, 128)), "mixture/sources": np.zeros((2, 4, 128))}
    found["`Attempt`, and others that read the input"] = Prompt(own, SoftPrompt().seen(), "")
    return found


def rows() -> list[str]:
    """The lines of the table: yes, or what is in the way."""
    asked = {f"`{n}`": form.load().refusal for n, form in FORMATS.items() if not form.merges}
    asked["`hf` or `t5x` with `--merge`"] = merged.refusal
    lines = [f"| method | {' | '.join(asked)} |", f"|---|{'---|' * len(asked)}"]
    for title, prompt in prompts().items():
        cells = [refusal(prompt) or "yes" for refusal in asked.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines
