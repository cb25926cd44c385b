"""Logits of checkpoints that T5X and transformers wrote, against what those computed.

    python benchmarks/golden.py --golden=DIR [--json]

DIR holds `t5x/` (v10 and v11 in T5X's msgpack layout, v11 in its Orbax layout) and `hf/` (the same
two models). Each is loaded by its string, in float32, and fed T5X's batches: padded short and long
rows. A line per checkpoint: its digest and the largest difference of a logit. Exit code 1 if one is
above TOLERANCE.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import prompt_jax as pj
from prompt_jax.backbone.load import Backbone

TOLERANCE = 5e-5  # logits are of the order of 10
BATCH = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
CASES = {  # backbone: whose numbers
    "t5x:{}/t5x/v10_t5x/checkpoint_1000": "v10",
    "t5x:{}/t5x/v11_t5x/checkpoint_1000": "v11",
    "t5x:{}/t5x/v11_orbax/checkpoint_1000": "v11",
    "hf:{}/hf/t5_v10": "v10",
    "hf:{}/hf/t5_v11": "v11",
}


def compare(backbone: Backbone, theirs: Mapping[str, np.ndarray]) -> float:
    """The largest difference of logits at columns that have a target."""
    worst = 0.0
    for name in ("basic", "long"):
        batch = {key: theirs[f"{name}/{key}"] for key in BATCH}
        real = batch["decoder_target_tokens"] > 0
        ours = pj.logits(backbone, batch)[real]
        worst = max(worst, float(np.abs(ours - theirs[f"{name}/logits"][real]).max()))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", required=True, type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for form, model in CASES.items():
        backbone = pj.load_backbone(form.format(options.golden), dtype="float32")
        with np.load(options.golden / "t5x" / f"{model}_forward.npz") as theirs:
            worst = compare(backbone, theirs)
        rows.append({"backbone": form.format("GOLDEN"), "digest": backbone.digest, "worst": worst})
        if not options.json:
            print(f"{rows[-1]['backbone']:42} {backbone.digest[:12]}  {worst:.1e}", flush=True)
    if options.json:
        print(json.dumps(rows))
    return int(any(row["worst"] > TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
