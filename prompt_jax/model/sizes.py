"""Published sizes of the T5 family, nano and mnano: name -> T5Config.

LM-adapted T5 and Flan-T5 have the sizes of `t5_1_1_*`, Flan-UL2 that of `ul2_20b`.
Sources: T5X's and prompt-tuning's size files; Raffel et al. 2020 (1.0); Xue et al. 2022 (ByT5);
Tay et al. 2022 (UL2).
"""

from prompt_jax.model.t5 import T5Config


def _sizes() -> dict[str, T5Config]:
    def config(V, D, H, K, F, encoder, decoder, **more):
        return T5Config(V, D, H, K, F, encoder, decoder, **more)

    sizes = {"nano": config(8192, 128, 4, 32, 384, 4, 4, dropout_rate=0.0)}
    sizes["mnano"] = config(16128, 128, 4, 32, 384, 4, 4, dropout_rate=0.0)
    v1_1 = {"small": (512, 6, 64, 1024, 8), "base": (768, 12, 64, 2048, 12)}
    v1_1 |= {"large": (1024, 16, 64, 2816, 24), "xl": (2048, 32, 64, 5120, 24)}
    v1_1 |= {"xxl": (4096, 64, 64, 10240, 24)}
    for name, (D, H, K, F, L) in v1_1.items():
        sizes[f"t5_1_1_{name}"] = config(32128, D, H, K, F, L, L)
        sizes[f"mt5_{name}"] = config(250112, D, H, K, F, L, L)
        sizes[f"umt5_{name}"] = config(256384, D, H, K, F, L, L, relpos_per_layer=True)
    relu = {"mlp_activations": ("relu",), "logits_via_embedding": True, "scale_logits": True}
    v1_0 = {"small": (512, 8, 64, 2048, 6), "base": (768, 12, 64, 3072, 12)}
    v1_0 |= {"large": (1024, 16, 64, 4096, 24), "3b": (1024, 32, 128, 16384, 24)}
    v1_0 |= {"11b": (1024, 128, 128, 65536, 24)}
    for name, (D, H, K, F, L) in v1_0.items():
        sizes[f"t5_{name}"] = config(32128, D, H, K, F, L, L, **relu)
    byt5 = {"small": (1472, 6, 3584, 12, 4), "base": (1536, 12, 3968, 18, 6)}
    byt5 |= {"large": (1536, 16, 3840, 36, 12), "xl": (2560, 32, 6720, 36, 12)}
    byt5 |= {"xxl": (4672, 64, 12352, 36, 12)}
    for name, (D, H, F, encoder, decoder) in byt5.items():
        sizes[f"byt5_{name}"] = config(384, D, H, 64, F, encoder, decoder)
    silu = {"mlp_activations": ("silu", "linear")}
    sizes["ul2_20b"] = config(32128, 4096, 16, 256, 16384, 32, 32, **silu)
    return sizes


SIZES = _sizes()
