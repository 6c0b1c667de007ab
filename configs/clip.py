"""CLIP (Radford et al. 2021): a small one that trains on a CPU, and the published sizes."""

from configs.recipe import Preset, small
from transformer.checkpoint import CheckpointConfig
from transformer.data.images.config import ImagesConfig
from transformer.layers.execution import Execution
from transformer.models.clip import ClipConfig
from transformer.objectives.contrastive import Contrastive
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


@Preset
def clip_shapes() -> Experiment:
    """A small CLIP on drawn shapes with captions, some combinations held out: minutes on a CPU."""
    model = ClipConfig(
        image_size=32, patch_size=8, width=64, num_layers=4, num_heads=4, mlp_width=256, vocab_size=440,
        context_length=12, text_width=64, text_layers=3, text_heads=4, text_mlp_width=256, projection_width=64,
        end_id=2,  # </s>
    )  # fmt: skip
    data = ImagesConfig(embedded="shapes", tokenizer="bpe")
    return small(model, Contrastive(), data=data, learning_rate=5e-3, batch_size=128, seq_len=12, eval_batches=None)


@Preset
def clip_b32() -> Experiment:
    """CLIP ViT-B/32, 151M parameters; --data.path takes images with captions."""
    return _published(ClipConfig())


@Preset
def clip_b16() -> Experiment:
    """CLIP ViT-B/16, 150M parameters; --data.path takes images with captions."""
    return _published(ClipConfig(patch_size=16))


@Preset
def clip_l14() -> Experiment:
    """CLIP ViT-L/14, 428M parameters; --data.path takes images with captions."""
    model = ClipConfig(
        patch_size=14, width=1024, num_layers=24, num_heads=16, mlp_width=4096, text_width=768, text_heads=12,
        text_mlp_width=3072, projection_width=768,
    )  # fmt: skip
    return _published(model, learning_rate=4e-4)


_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the images that CLIP was trained on, by channel."""


def _published(model: ClipConfig, learning_rate: float = 5e-4) -> Experiment:
    """Radford et al. 2021, appendix F: 32 epochs of 400M images, of 32,768 an update; crops are the only variation."""
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=Contrastive(chunk=4096),
        data=ImagesConfig(path="captions.tsv", tokenizer="tokenizer.json", crop=(0.9, 1.0), mean=_MEAN, std=_STD),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate, warmup_steps=2000, b2=0.98, weight_decay=0.2, final_fraction=0.0
        ),
        train=TrainConfig(steps=390_625, batch_size=32_768, seq_len=77, eval_every=5000, eval_batches=None),
        checkpoint=CheckpointConfig(every=5000),
        execution=Execution(dtype="bfloat16"),
    )
