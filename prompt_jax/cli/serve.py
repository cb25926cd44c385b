"""The verb `serve`; nothing heavy is imported before it runs."""

import importlib.util
from typing import Annotated

import typer

from prompt_jax.cli.options import Backbone, Debug, MethodsModules, import_methods
from prompt_jax.errors import UserError

NEEDED = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "pydantic": "pydantic",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}


def serve(
    backbone: Backbone,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="NAME=DIR", help="An artefact, .npy or PEFT folder. Repeatable."
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="0 takes a free one, which the log names."),
    ] = 8000,
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", min=1, help="Outputs written at a time.")
    ] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            "--cache_bytes", metavar="N", min=1, help="Most bytes that the slots may take."
        ),
    ] = None,
    input_length: Annotated[
        int | None,
        typer.Option("--input_length", metavar="N", min=2, help="Longest input, in tokens."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max_tokens", metavar="N", min=1, help="Longest output, in tokens."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="DTYPE", help="float32 or bfloat16.")
    ] = None,
    weights_dtype: Annotated[
        str | None,
        typer.Option("--weights_dtype", metavar="DTYPE", help="int8, int4 or float8_e4m3fn."),
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option("--vocabulary", metavar="FILE", help="By default the backbone's.")
    ] = None,
    prompt_root: Annotated[
        str | None,
        typer.Option("--prompt_root", metavar="DIR", help="Folder that PUT may load prompts from."),
    ] = None,
    read_tokens: Annotated[
        str | None,
        typer.Option(
            "--read_tokens",
            metavar="FILE",
            help="File of bearer tokens for requests, one per line; without it, anybody may ask.",
        ),
    ] = None,
    admin_tokens: Annotated[
        str | None,
        typer.Option(
            "--admin_tokens",
            metavar="FILE",
            help="File of bearer tokens for loading prompts; without it, nobody may.",
        ),
    ] = None,
    max_body: Annotated[
        int, typer.Option("--max_body", metavar="BYTES", min=1, help="Most bytes of a request.")
    ] = 1 << 20,
    max_upload: Annotated[
        int,
        typer.Option(
            "--max_upload", metavar="BYTES", min=1, help="Most bytes of a prompt's files."
        ),
    ] = 256 << 20,
    max_inputs: Annotated[
        int, typer.Option("--max_inputs", metavar="N", min=1, help="Most texts in one request.")
    ] = 256,
    max_requests: Annotated[
        int,
        typer.Option(
            "--max_requests", metavar="N", min=1, help="Most requests at a time; more get 429."
        ),
    ] = 64,
    max_prompts: Annotated[
        int,
        typer.Option("--max_prompts", metavar="N", min=1, help="Most prompts loaded at a time."),
    ] = 10_000,
    queue: Annotated[
        int,
        typer.Option("--queue", metavar="N", min=1, help="Most inputs that wait; more get 429."),
    ] = 1024,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.1, help="Seconds that a request may take."
        ),
    ] = 60.0,
    warm_up: Annotated[
        str,
        typer.Option(
            "--warm_up",
            metavar="KINDS",
            help="What to compile before the first request; empty: nothing.",
        ),
    ] = "generate,rank,embed",
    methods_module: MethodsModules = None,
    allow_other_backbone: Annotated[
        bool,
        typer.Option(
            "--allow_other_backbone", help="Take prompts that were tuned for another backbone."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Answers over HTTP with one backbone and many prompts.

    Requests of different prompts share batches.

    \b
    Example:
      prompt-jax serve --backbone=nano --prompt=trec=/tmp/run/prompt/best --port=8000
    """
    for module, distribution in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            problem = f"needs {distribution}, which is not installed"
            raise UserError("prompt-jax serve", problem, "pip install 'prompt-jax[serve]'")
    from prompt_jax.serve.app import Server
    from prompt_jax.serve.engine import Engine
    from prompt_jax.serve.guard import Limits
    from prompt_jax.serve.run import kinds_of, named_prompts, tokens_of
    from prompt_jax.serve.run import serve as run

    import_methods(methods_module)
    kinds, prompts = kinds_of(warm_up), named_prompts(prompt or [])
    tokens = tokens_of(read_tokens, admin_tokens)
    engine = Engine(
        backbone,
        prompts,
        slots,
        cache_bytes,
        input_length=input_length,
        max_tokens=max_tokens,
        dtype=dtype,
        weights_dtype=weights_dtype,
        vocabulary=vocabulary,
        queue_size=queue,
        allow_other_backbone=allow_other_backbone,
    )
    limits = Limits(max_body, max_upload, max_inputs, max_requests, max_prompts, timeout)
    with engine:
        server = Server(engine, tokens=tokens, limits=limits, prompt_root=prompt_root)
        run(server, host, port, drain=timeout, warm_up=kinds)
