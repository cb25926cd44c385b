"""Prompt tuning in PEFT, without this package; its one argument is a shape, as JSON.

Run as a file, so that its memory and its start are those of torch, transformers and PEFT alone. It
makes `steps` steps, then prints {"first_step": seconds since the start of the process, "peak":
bytes}.
"""

import json
import resource
import sys
from importlib import import_module
from typing import Any


def transformers_config(shape: dict[str, Any]) -> Any:
    """transformers' T5Config, by `shape`: fields of ours."""
    import transformers

    activations = shape["mlp_activations"]
    return transformers.T5Config(
        vocab_size=shape["vocab_size"],
        d_model=shape["emb_dim"],
        d_kv=shape["head_dim"],
        d_ff=shape["mlp_dim"],
        num_layers=shape["num_encoder_layers"],
        num_decoder_layers=shape["num_decoder_layers"],
        num_heads=shape["num_heads"],
        feed_forward_proj="gated-gelu" if len(activations) > 1 else activations[0],
        tie_word_embeddings=shape["logits_via_embedding"],  # pyright: ignore[reportCallIssue]
        dropout_rate=0.0,
        decoder_start_token_id=0,  # pyright: ignore[reportCallIssue]
        use_cache=False,
    )


def tuned(shape: dict[str, Any], prompt: int) -> tuple[Any, Any]:
    """A model of random weights with `prompt` virtual tokens, and its optimizer."""
    import transformers

    peft: Any = import_module("peft")  # installed for comparisons alone
    torch: Any = import_module("torch")
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_2_SEQ_LM,
        num_virtual_tokens=prompt,
        num_transformer_submodules=1,
        token_dim=shape["emb_dim"],
        num_layers=shape["num_encoder_layers"],
        num_attention_heads=shape["num_heads"],
    )
    torch.manual_seed(0)
    t5: Any = transformers.T5ForConditionalGeneration(transformers_config(shape))
    model = peft.get_peft_model(t5, config)
    model.eval()  # no dropout
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=0.3)


def step(model: Any, optimizer: Any, inputs: Any, labels: Any) -> None:
    output = model(input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels)
    output.loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def since_start() -> float:
    """Seconds since this process was started, in Linux by the system's count."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
        return float(uptime.read().split()[0]) - ticks / 100


def main() -> None:
    shape = json.loads(sys.argv[1])
    model, optimizer = tuned(shape["config"], shape["prompt"])
    torch: Any = import_module("torch")
    first = None
    for _ in range(shape["steps"]):
        inputs = torch.randint(3, 8000, (shape["rows"], shape["columns"]))
        labels = torch.randint(3, 8000, (shape["rows"], shape["targets"]))
        step(model, optimizer, inputs, labels)
        first = first or since_start()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"first_step": first, "peak": peak}))


if __name__ == "__main__":
    main()
