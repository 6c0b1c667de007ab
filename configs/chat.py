"""Chat models: supervised fine-tuning of a pretrained decoder on conversations."""

from configs.recipe import Preset
from transformer.checkpoint import CheckpointConfig
from transformer.data.chats.config import ChatConfig
from transformer.models.llama import LlamaConfig
from transformer.objectives.chat import Chat
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


@Preset
def chat(pretrained: bool = False) -> Experiment:
    """Answer as the assistant of the conversations in --data.path does; fine-tunes --init.path, a chat model."""
    model = LlamaConfig(
        vocab_size=512,
        context_length=1024,
        width=192,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_width=48,
        mlp_width=512,
        rotary_base=10_000.0,
        tie_embeddings=True,
    )
    optimizer = OptimizerConfig(
        learning_rate=2e-5 if pretrained else 1e-3,
        schedule="cosine",
        warmup_steps=10,
        final_fraction=0.0,
        weight_decay=0.0,
        b2=0.999,
    )
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=Chat(),
        data=ChatConfig(),
        optimizer=optimizer,
        train=TrainConfig(steps=300, batch_size=8, seq_len=512, eval_every=50, eval_batches=20),
        checkpoint=CheckpointConfig(every=50),
    )
