"""P-tuning: an input prompt whose rows depend on each other through an LSTM or an MLP.

Liu et al. 2021 (https://arxiv.org/abs/2103.10385), section 3.2: h = MLP(BiLSTM(E)), E [P, D]
trained from N(0, 1). Encoder input [h; E(x)]. BiLSTM: two layers, D -> W; MLP: W -> W -> D, ReLU.
Without the LSTM: MLP D -> W -> W -> D, as in NeMo and PEFT, or D -> W -> D and a layer norm, as in
the cross-lingual prompts of Philippy et al. 2024 (https://arxiv.org/abs/2402.03782). `residual`
adds the initial rows of an input prompt, trained too. With `bilstm`, one layer and no MLP, that is
PRE (Minh et al. 2023): V + BiLSTM(V), which keeps a vocabulary init. It folds to a plain prompt
[P, D].
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.base import STILL, Context, PromptMethod, PromptParam
from prompt_jax.methods.parts.inits import Init
from prompt_jax.methods.parts.networks import MLP, BiLSTM, LayerNorm, lstm_count, mlp_count
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.layout import Placement, PromptLayout
from prompt_jax.settings import at_least, settings


@settings
class PTuning(PromptMethod):
    """Settings of P-tuning; the group `network` is what makes the rows.

    Attributes:
      length: P.
      encoder: `lstm` (the paper), `mlp`, `mlp_norm` (Philippy et al.) or `bilstm` (PRE).
      width: W; None: the model's width, which `bilstm` always has.
      placement: where the rows stand.
      init: how E begins; None: from N(0, 1), as in the paper.
      residual: E is added to what the network makes of it.
    """

    groups: ClassVar = dict.fromkeys(("lstm", "mlp", "norm"), "network")
    length: int = 20
    encoder: Literal["lstm", "mlp", "mlp_norm", "bilstm"] = "lstm"
    width: int | None = None
    placement: Placement = "prefix"
    init: Init | None = None
    residual: bool = False

    def check(self):
        at_least("PTuning", 1, {"length": self.length})
        if self.width is not None and (self.width < 2 or self.width % 2):
            raise UserError(
                Setting("PTuning", "width", self.width), remedy="give an even number, 2 or more"
            )

    @property
    def layout(self) -> PromptLayout:
        return PromptLayout(encoder=self.length, placement=self.placement)

    def create(self, key: jax.Array, start: Start) -> "EncodedPrompt":
        rows = None
        if self.init is not None:
            rows = start.one(self.init, key, self.length)
        return EncodedPrompt(self, start.config, key, rows)

    def count(self, config: T5Config) -> int:
        """P D, and LSTM 4 W (D + W/2 + 1) + 4 W (3/2 W + 1) or `bilstm` 4 D (3/2 D + 1), and the
        MLP's I O + O per layer, and the layer norm's 2 D."""
        D, W = config.emb_dim, self.width or config.emb_dim
        networks = {"lstm": lstm_count(D, W), "bilstm": lstm_count(D, D, 1), "mlp_norm": 2 * D}
        network = networks.get(self.encoder, 0)
        return self.length * D + network + mlp_count(self.widths(config))

    def widths(self, config: T5Config) -> tuple[int, ...]:
        """Of the MLP."""
        D, W = config.emb_dim, self.width or config.emb_dim
        widths = {"lstm": (W, W, D), "mlp": (D, W, W, D), "mlp_norm": (D, W, D)}
        return widths.get(self.encoder, ())


class EncodedPrompt(nnx.Module):
    """Owns E [P, D] and the network."""

    def __init__(self, method: PTuning, config: T5Config, key: jax.Array, rows):
        D, W = config.emb_dim, method.width or config.emb_dim
        keys = jax.random.split(key, 3)
        if rows is None:
            rows = jax.random.normal(keys[0], (method.length, D), jnp.float32)
        self.rows = PromptParam(jnp.asarray(rows, jnp.float32))
        lstms = {"lstm": (D, W, 2), "bilstm": (D, D, 1)}
        self.lstm = BiLSTM(keys[1], *lstms[method.encoder]) if method.encoder in lstms else None
        widths = method.widths(config)
        self.mlp = MLP(keys[2], widths, "relu") if widths else None
        self.norm = LayerNorm(D) if method.encoder == "mlp_norm" else None
        self.residual = method.residual

    def __call__(self, ctx: Context = STILL) -> PromptBundle:
        rows = self.rows[...]
        encoded = rows if self.lstm is None else self.lstm(rows)
        encoded = encoded if self.mlp is None else self.mlp(encoded)
        encoded = encoded if self.norm is None else self.norm(encoded)
        return PromptBundle(encoder=(rows + encoded if self.residual else encoded)[None])
