"""Opening a backbone and saved prompts together, for `eval`, `infer`, `export` and `import`.

What was not given is as the prompts were trained: lengths, dtypes, vocabulary. Prompts and settings
are known before any weight is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import UserError
from prompt_jax.prompt.artefact import Prompt, check_backbone, check_tokenizer, load_prompt


@dataclass(frozen=True)
class Opening:
    """A backbone by its string, prompts, and how both are held.

    Attributes:
      limits: tokens of input and of output.
      dtype, weights_dtype, vocabulary: as `load_backbone` takes them.
      allow_other_backbone: take prompts that were tuned for other weights of the same width.
    """

    backbone: str
    prompts: Sequence[Prompt]
    limits: tuple[int, int]
    dtype: str
    weights_dtype: str | None
    vocabulary: str | None
    allow_other_backbone: bool

    def load(self, mesh: Mesh | None = None) -> Backbone:
        """The backbone; UserError where a prompt belongs to other weights or pieces."""
        loaded = self.load_alone(mesh)
        self.check(loaded)
        return loaded

    def load_alone(self, mesh: Mesh | None = None) -> Backbone:
        """The backbone, not yet compared with the prompts."""
        return load_backbone(self.backbone, self.dtype, self.vocabulary, mesh, self.weights_dtype)

    def check(self, loaded: Backbone) -> None:
        """UserError where a prompt belongs to other weights or pieces than these."""
        for prompt in self.prompts:
            check_backbone(prompt, loaded, allow_other=self.allow_other_backbone)
            check_tokenizer(prompt, loaded)


def opening(
    backbone: str,
    prompts: Sequence[str],
    *,
    input_length: int | None = None,
    target_length: int | None = None,
    dtype: str | None = None,
    weights_dtype: str | None = None,
    vocabulary: str | None = None,
    allow_other_backbone: bool = False,
) -> Opening:
    """What is to be opened; `prompts` are paths.

    Raises:
      UserError: a prompt cannot be read, or prompts were trained with other settings and none is
        given.
    """
    saved = [load_prompt(path) for path in prompts]
    limits = (
        input_length or trained(saved, "input_length", 512),
        target_length or trained(saved, "target_length", 64),
    )
    return Opening(
        backbone,
        saved,
        limits,
        dtype or trained(saved, "dtype", "bfloat16"),
        weights_dtype or trained(saved, "weights_dtype", None),
        vocabulary or trained(saved, "vocabulary", None),
        allow_other_backbone,
    )


def trained(saved: Sequence[Prompt], name: str, default: Any) -> Any:
    """What all prompts were trained with; `default` where none says it."""
    values = {p.path: p.manifest["run"][name] for p in saved if name in p.manifest.get("run", {})}
    if len(set(values.values())) > 1:
        shown = ", ".join(f"{path}: {value}" for path, value in values.items())
        raise UserError(
            "--prompt",
            f"the prompts were trained with different {name} ({shown})",
            f"give --{name}",
        )
    return next(iter(values.values()), default)


def default(given: int | None, saved: Sequence[Prompt], name: str, otherwise: int) -> int:
    """What was given, 0 included; else what all prompts were trained with."""
    return trained(saved, name, otherwise) if given is None else given
