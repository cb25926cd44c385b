"""The names that a recipe may use, and where each lives; nothing is imported until a recipe is.

Built in; of plug-ins, packages that declare entry points of the group `prompt_jax.plugins`; and of
the user's own modules (`--methods_module`).
"""

from importlib.metadata import entry_points

from prompt_jax.errors import UserError

PLUGINS = "prompt_jax.plugins"  # the group: NAME = "package.module:Class"

REGISTERED: dict[str, str] = {
    "Train": "prompt_jax.run.settings:Train",
    "Farm": "prompt_jax.run.settings:Farm",
    "Stages": "prompt_jax.run.stages:Stages",
    "Stage": "prompt_jax.run.stages:Stage",
    "FoldAndFreeze": "prompt_jax.run.stages:FoldAndFreeze",
    "PassWeights": "prompt_jax.run.stages:PassWeights",
    "PassPrompt": "prompt_jax.run.stages:PassPrompt",
    "PassTeacher": "prompt_jax.run.stages:PassTeacher",
    "PruneRows": "prompt_jax.run.prune:PruneRows",
    "PruneNeurons": "prompt_jax.run.skeleton:PruneNeurons",
    "Backbone": "prompt_jax.backbone.settings:BackboneSettings",
    "Data": "prompt_jax.data.source:Data",
    "Loss": "prompt_jax.objective.loss:Loss",
    "Wayward": "prompt_jax.objective.wayward:Wayward",
    "FrozenKL": "prompt_jax.objective.frozen_kl:FrozenKL",
    "HiddenDistillation": "prompt_jax.objective.hidden:HiddenDistillation",
    "Panda": "prompt_jax.objective.panda:Panda",
    "Distillation": "prompt_jax.objective.distillation:Distillation",
    "EncoderClassifier": "prompt_jax.objective.encoder_classifier:EncoderClassifier",
    "PTEC": "prompt_jax.objective.ptec:PTEC",
    "Unlikelihood": "prompt_jax.objective.t_few:Unlikelihood",
    "LengthNormalised": "prompt_jax.objective.t_few:LengthNormalised",
    "ContextLabels": "prompt_jax.objective.context_labels:ContextLabels",
    "Homeostasis": "prompt_jax.objective.homeostasis:Homeostasis",
    "ProGrad": "prompt_jax.objective.prograd:ProGrad",
    "KeepZeros": "prompt_jax.objective.keep_zeros:KeepZeros",
    "NormBall": "prompt_jax.objective.norm_ball:NormBall",
    "Schedule": "prompt_jax.objective.optim:Schedule",
    "Adafactor": "prompt_jax.objective.optim:Adafactor",
    "AdamW": "prompt_jax.objective.optim:AdamW",
    "Evaluation": "prompt_jax.evaluate.evaluation:PeriodicEvaluation",
    "HeldOutLoss": "prompt_jax.evaluate.held_out:HeldOutLoss",
    "Checkpoints": "prompt_jax.run.state:Checkpoints",
    "MeshShape": "prompt_jax.model.sharding:MeshShape",
    "SoftPrompt": "prompt_jax.methods.soft:SoftPrompt",
    "PrefixTuning": "prompt_jax.methods.prefix:PrefixTuning",
    "PTuning": "prompt_jax.methods.p_tuning:PTuning",
    "DeepPrompt": "prompt_jax.methods.deep:DeepPrompt",
    "MultitaskPrompt": "prompt_jax.methods.multitask:MultitaskPrompt",
    "XGen": "prompt_jax.methods.x_gen:XGen",
    "Attempt": "prompt_jax.methods.attempt:Attempt",
    "ContextPrompt": "prompt_jax.methods.context:ContextPrompt",
    "CPT": "prompt_jax.methods.cpt:CPT",
    "LowRankPrompt": "prompt_jax.methods.low_rank:LowRankPrompt",
    "ScaledPrompt": "prompt_jax.methods.scaled:ScaledPrompt",
    "DePT": "prompt_jax.methods.dept:DePT",
    "EPT": "prompt_jax.methods.ept:EPT",
    "UnifiedPrompt": "prompt_jax.methods.upt:UnifiedPrompt",
    "CoupledPrompt": "prompt_jax.methods.maple:CoupledPrompt",
    "E2VPT": "prompt_jax.methods.e2vpt:E2VPT",
    "IA3": "prompt_jax.methods.ia3:IA3",
    "LoRA": "prompt_jax.methods.lora:LoRA",
    "FrozenPrompts": "prompt_jax.methods.frozen:FrozenPrompts",
    "FullTuning": "prompt_jax.methods.full:FullTuning",
    "Visibility": "prompt_jax.model.bundle:Visibility",
    "UniformInit": "prompt_jax.methods.parts.inits:UniformInit",
    "SampledVocabInit": "prompt_jax.methods.parts.inits:SampledVocabInit",
    "ClassLabelInit": "prompt_jax.methods.parts.inits:ClassLabelInit",
    "TextInit": "prompt_jax.methods.parts.inits:TextInit",
    "NameInit": "prompt_jax.methods.parts.inits:NameInit",
    "FileInit": "prompt_jax.methods.parts.inits:FileInit",
    "Pretrain": "prompt_jax.run.pretrain:Pretrain",
    "BackboneVocabulary": "prompt_jax.run.pretrain:BackboneVocabulary",
    "NewVocabulary": "prompt_jax.run.pretrain:NewVocabulary",
    "CountedEmbeddings": "prompt_jax.run.counted_embeddings:CountedEmbeddings",
    "Corpus": "prompt_jax.data.corpus:Corpus",
}

USERS: dict[str, str] = {}  # what `user_code.import_methods_module` has added


def known() -> dict[str, str]:
    """Name -> "module:attribute" of every class and function that a recipe may name.

    Raises:
      UserError: a plug-in declares a name that is built in.
    """
    plugins: dict[str, str] = {}
    for point in entry_points(group=PLUGINS):
        if point.name in REGISTERED and REGISTERED[point.name] != point.value:
            problem = f"{point.name} is built in, and {point.value} declares it too"
            raise UserError(f"entry point {PLUGINS}", problem, "uninstall that package")
        plugins[point.name] = point.value
    return REGISTERED | plugins | USERS
