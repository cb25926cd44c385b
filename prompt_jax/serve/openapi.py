"""The server's OpenAPI 3.1 document, made of the models that its requests are checked by."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from prompt_jax.export import peft
from prompt_jax.prompt import files
from prompt_jax.serve import schema
from prompt_jax.version import __version__

REF = "#/components/schemas/{model}"
WHY = {
    400: "No JSON, or none that can be read.",
    401: "No token, or a wrong one.",
    403: "The token may not do this.",
    404: "There is no such prompt.",
    413: "The body is too large.",
    422: "A field is missing, unknown or out of its range.",
    429: "Too much waits; Retry-After says when to come again.",
    503: "The server is closing, or the deadline passed first.",
}
FILES = (files.MANIFEST, files.TENSORS, peft.CONFIG, peft.WEIGHTS)  # of an upload
TOKEN = [{"bearer": []}, {}]


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def _answers(model: type[BaseModel] | None, *failures: int, status: int = 200) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if model is not None:
        good["content"] = _json(model)
    failed = {
        str(code): {"description": WHY[code], "content": _json(schema.Failure)} for code in failures
    }
    return {str(status): good} | failed


def _post(summary: str, asked: type[BaseModel], answer: type[BaseModel], stream: str = "") -> Any:
    responses = _answers(answer, 400, 401, 404, 413, 422, 429, 503)
    if stream:
        responses["200"]["content"]["text/event-stream"] = {}
        responses["200"]["description"] = f"Done. With `stream`: {stream}, then `data: [DONE]`."
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(asked)},
        "responses": responses,
        "security": TOKEN,
    }


def _get(summary: str, answer: type[BaseModel], *failures: int) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers(answer, *failures), "security": TOKEN}


def _named(name: str, pattern: str | None = None) -> list[dict[str, Any]]:
    kind = {"type": "string"} | ({"pattern": pattern} if pattern else {"minLength": 1})
    return [{"name": name, "in": "path", "required": True, "schema": kind}]


def document(
    vocab_size: int = 2**31, max_tokens: int = 2**31, inputs: int = 1024
) -> dict[str, Any]:
    """The whole document, of a server with these limits."""
    asked = [
        schema.GenerateRequest,
        schema.RankRequest,
        schema.EmbedRequest,
        schema.CompletionRequest,
        schema.SourceRequest,
    ]
    given = [
        schema.GenerateAnswer,
        schema.RankAnswer,
        schema.EmbedAnswer,
        schema.Completion,
        schema.PromptList,
        schema.PromptFacts,
        schema.Deleted,
        schema.ModelList,
        schema.Model,
        schema.State,
        schema.Failure,
    ]
    pairs: Any = [(m, "validation") for m in asked] + [(m, "serialization") for m in given]
    _, schemas = models_json_schema(pairs, ref_template=REF)
    _limit(schemas["$defs"], vocab_size, max_tokens, inputs)
    file = {"type": "string", "format": "binary"}
    files = {
        "type": "object",
        "properties": dict.fromkeys(FILES, file),
        "additionalProperties": False,
        "minProperties": 1,
    }
    put = {
        "summary": "Loads a prompt under a name (admin)",
        "description": "Files of an artefact or a PEFT folder, or an entry of --prompt_root.",
        "requestBody": {
            "required": True,
            "content": {**_json(schema.SourceRequest), "multipart/form-data": {"schema": files}},
        },
        "responses": _answers(schema.PromptFacts, 400, 401, 403, 404, 413, 422, 429, 503),
        "security": [{"bearer": []}],
    }
    delete = {
        "summary": "Forgets a prompt (admin)",
        "responses": _answers(schema.Deleted, 401, 403, 404),
        "security": [{"bearer": []}],
    }
    event = '`data: {"index", "text"}` for each piece'
    paths = {
        "/v1/generate": {
            "post": _post("Writes", schema.GenerateRequest, schema.GenerateAnswer, event)
        },
        "/v1/rank": {"post": _post("Ranks choices", schema.RankRequest, schema.RankAnswer)},
        "/v1/embed": {"post": _post("Embeds", schema.EmbedRequest, schema.EmbedAnswer)},
        "/v1/completions": {
            "post": _post(
                "OpenAI's", schema.CompletionRequest, schema.Completion, "OpenAI's chunks"
            )
        },
        "/v1/models": {"get": _get("Prompts, and the backbone", schema.ModelList, 401)},
        "/v1/models/{model}": {
            "parameters": _named("model"),
            "get": _get("One of them", schema.Model, 401, 404),
        },
        "/v1/prompts": {"get": _get("All loaded prompts", schema.PromptList, 401)},
        "/v1/prompts/{name}": {
            "parameters": _named("name", schema.PATTERN),
            "get": _get("One of them", schema.PromptFacts, 401, 404),
            "put": put,
            "delete": delete,
        },
        "/healthz": {"get": _get("Whether the engine runs", schema.State, 503)},
        "/readyz": {"get": _get("Whether requests should come", schema.State, 503)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "prompt-jax serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _limit(schemas: dict[str, Any], vocab_size: int, max_tokens: int, inputs: int) -> None:
    """Writes what one server takes into the schemas of requests."""
    for name in ("GenerateRequest", "CompletionRequest"):
        number = schemas[name]["properties"]["max_tokens"]["anyOf"][0]
        number.pop("exclusiveMaximum", None)
        number["maximum"] = max_tokens
    for name in ("GenerateRequest", "RankRequest", "EmbedRequest"):
        schemas[name]["properties"]["inputs"]["maxItems"] = inputs
    for kind in schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"]:
        items = kind.get("items", {})
        if items.get("type") == "integer":
            items.pop("exclusiveMaximum", None)
            items["maximum"] = vocab_size - 1
        elif kind.get("type") == "array":
            kind["maxItems"] = inputs
            if items.get("type") == "array":
                items["items"].pop("exclusiveMaximum", None)
                items["items"]["maximum"] = vocab_size - 1
