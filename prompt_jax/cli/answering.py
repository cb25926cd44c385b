"""Options of how answers are made, which `eval`, `infer` and `untrained` share."""

from typing import Annotated, Any

import typer

Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="generate, rank or head; with eval also retrieve or mine.",
    ),
]
Beams = Annotated[
    int, typer.Option("--beams", metavar="N", min=1, help="Beam search; 1 is greedy.")
]
LengthNormalised = Annotated[
    bool, typer.Option("--length_normalised", help="Rank by log-likelihood per token.")
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", help="Sample from softmax(logits / T)."),
]
TopK = Annotated[
    int, typer.Option("--top_k", metavar="N", min=0, help="Sample among the N likeliest; 0: all.")
]
TopP = Annotated[
    float,
    typer.Option(
        "--top_p", metavar="P", help="Sample among the likeliest whose probabilities add up to P."
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the sampling.")]
BatchSize = Annotated[int, typer.Option("--batch_size", metavar="N", min=1, help="Rows at a time.")]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", help="float32 or bfloat16.")]
WeightsDtype = Annotated[
    str | None,
    typer.Option(
        "--weights_dtype",
        metavar="DTYPE",
        help="int8, int4 or float8_e4m3fn; by default that of --dtype.",
    ),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        metavar="FILE.model",
        help="SentencePiece file, or bytes; without it the prompt's, or the backbone's own.",
    ),
]
Continuous = Annotated[
    bool,
    typer.Option(
        "--continuous",
        help="With generate: a finished row makes room for the next one. Same answers, and faster "
        "where their lengths differ much.",
    ),
]
Constrained = Annotated[
    bool,
    typer.Option("--constrained", help="With generate: write nothing but choices, one of them."),
]
Separator = Annotated[
    str | None,
    typer.Option(
        "--separator",
        metavar="TEXT",
        help="With --constrained: several choices may be written, with this between them.",
    ),
]
OtherBackbone = Annotated[
    bool,
    typer.Option(
        "--allow_other_backbone", help="Take a prompt that was tuned for another backbone."
    ),
]


def answering_of(**settings: Any) -> Any:
    """The settings `Answering`, which are imported late."""
    from prompt_jax.answer.answerer import Answering

    return Answering(**settings)


def sampling_of(temperature: float | None, top_k: int, top_p: float) -> Any:
    """The settings behind the options; `top_k` and `top_p` alone mean temperature 1."""
    from prompt_jax.model.decode import Sampling

    if temperature is None and not top_k and top_p >= 1:
        return None
    return Sampling(
        temperature=1.0 if temperature is None else temperature, top_k=top_k, top_p=top_p
    )
