"""What the server takes and gives, as pydantic models; its OpenAPI document is made of them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from prompt_jax.serve.table import NAME

PATTERN = f"^{NAME}$"
MOST_TEXTS, MOST_CHOICES, MOST_STOPS = 1024, 256, 16


def _whole(value: Any) -> Any:
    """`5.0` as 5, which JSON Schema calls an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
PromptName = Annotated[str, Field(pattern=PATTERN, examples=["sst2"])]
Text = Annotated[str, Field(examples=["a moving and funny film"])]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31), WHOLE]], Field(min_length=1)]
Choices = Annotated[
    list[Annotated[str, Field(examples=["positive"])]],
    Field(min_length=1, max_length=MOST_CHOICES, json_schema_extra={"uniqueItems": True}),
]
Seconds = Annotated[float | None, Field(gt=0, description="Until the request is given up.")]


class Strict(BaseModel):
    """No value is converted but 5.0 to 5, no unknown field is passed over."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Asked(Strict):
    """What every request for answers has."""

    prompt: Annotated[
        PromptName | Annotated[list[PromptName | None], Field(min_length=1)] | None,
        Field(description="A loaded prompt for all inputs, one or null for each; null: none."),
    ] = None
    inputs: Texts
    timeout: Seconds = None


class Sampled(Strict):
    """How tokens are chosen; temperature 0 is greedy."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=1000)] = 0.0
    top_k: Annotated[int, Field(ge=0, lt=2**31, description="0: all"), WHOLE] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="Input i draws with seed + i."), WHOLE
    ] = 0
    stop: Annotated[
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS)]
        | None,
        Field(description="The output ends before the first of these."),
    ] = None
    stream: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class GenerateRequest(Asked, Sampled):
    """`POST /v1/generate`"""


class RankRequest(Asked):
    """`POST /v1/rank`"""

    choices: Annotated[
        Choices | Annotated[list[Choices], Field(min_length=1, max_length=MOST_TEXTS)],
        Field(description="One list for all inputs, or one for each."),
    ]
    length_normalised: Annotated[bool, Field(description="Means per token, not sums.")] = False


class EmbedRequest(Asked):
    """`POST /v1/embed`"""


class CompletionRequest(Sampled):
    """`POST /v1/completions`: OpenAI's. Fields that would change the output are refused unless they
    ask for what there is: one greedy or sampled completion of each prompt."""

    model: Annotated[str, Field(description="A loaded prompt, or the backbone's own name.")]
    prompt: Annotated[
        Text | Texts | Ids | Annotated[list[Ids], Field(min_length=1, max_length=MOST_TEXTS)],
        Field(description="Texts, or rows of token ids."),
    ]
    timeout: Seconds = None
    n: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    best_of: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None
    logit_bias: Annotated[dict[str, Any] | None, Field(max_length=0)] = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    stream_options: Annotated[dict[str, Any] | None, Field(max_length=0)] = None
    user: str | None = None


class SourceRequest(Strict):
    """`PUT /v1/prompts/NAME` of a prompt that lies below --prompt_root."""

    source: Annotated[
        str, Field(min_length=1, max_length=1024, description="An entry below --prompt_root.")
    ]


class Problem(BaseModel):
    message: str
    type: str
    param: str | None


class Failure(BaseModel):
    """Every answer with a status of 400 or above."""

    error: Problem


class Output(BaseModel):
    text: str
    score: Annotated[float, Field(description="The sum of log-probabilities.")]
    finish_reason: str


class GenerateAnswer(BaseModel):
    outputs: list[Output]


class Ranked(BaseModel):
    choice: str
    scores: dict[str, float]


class RankAnswer(BaseModel):
    outputs: list[Ranked]


class Embedded(BaseModel):
    embedding: list[float]


class EmbedAnswer(BaseModel):
    outputs: list[Embedded]


class PromptFacts(BaseModel):
    name: str
    method: str
    task: str | None
    metric: dict[str, Any] | None
    rows: int
    decoder_rows: int
    bytes: int


class PromptList(BaseModel):
    prompts: list[PromptFacts]


class Deleted(BaseModel):
    deleted: str


class Choice(BaseModel):
    index: int
    text: str
    logprobs: None
    finish_reason: str | None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Model(BaseModel):
    id: str
    object: str
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: str
    data: list[Model]


class State(BaseModel):
    status: str
