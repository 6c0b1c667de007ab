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

    Batches are the paper's, the length of texts is the released models'. The rest of their recipe is not printed as a
    whole; rate, decay, clipping, warmup and 40 billion pairs are those told of SigLIP 2 (Tschannen et al. 2025), whose
    further losses are not here. None of these has been trained here.
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
