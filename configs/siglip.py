"""SigLIP (Zhai et al. 2023): the published base size."""

from configs.recipe import Preset
from transformer.checkpoint import CheckpointConfig
from transformer.data.images.config import ImagesConfig
from transformer.layers.execution import Execution
from transformer.models.siglip import SiglipConfig
from transformer.objectives.contrastive import Contrastive
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


@Preset
def siglip_b16() -> Experiment:
    """SigLIP ViT-B/16, 203M parameters; --data.path takes images with captions.

    The paper has batches of 32,768 pairs, 64 tokens of text in the released models and b2 = 0.95. It does not print
    the recipe of those models as a whole: rate, decay, clipping, warmup and the 40 billion pairs are SigLIP 2's
    (Tschannen et al. 2025, section 2), whose further losses are not here.
    """
    return Experiment(
        name="",  # the preset's
        model=SiglipConfig(),
        objective=Contrastive("sigmoid", chunk=4096),
        data=ImagesConfig(path="captions.tsv", tokenizer="spiece.model", resize="squash"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=20_000, b2=0.95, weight_decay=1e-4, clip_norm=1.0, final_fraction=0.0
        ),
        train=TrainConfig(steps=1_220_703, batch_size=32_768, seq_len=64, eval_every=5000, eval_batches=None),
        checkpoint=CheckpointConfig(every=5000),
        execution=Execution(dtype="bfloat16"),
    )
