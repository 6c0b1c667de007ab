"""Tasks: fine-tuning what --init.path names; without weights a small model that learns the task from nothing."""

from configs.recipe import SHORT_ENCODER, Preset, linear
from transformer.checkpoint import CheckpointConfig
from transformer.data.examples.config import ExamplesConfig
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.models.bert import BertConfig
from transformer.objectives.multiple_choice import MultipleChoice
from transformer.objectives.objective import Objective
from transformer.objectives.question_answering import QuestionAnswering
from transformer.objectives.sentence_embeddings import SentenceEmbeddings
from transformer.objectives.text_classification import TextClassification
from transformer.objectives.token_classification import TokenClassification
from transformer.training.experiment import Experiment, TrainConfig


@Preset
def classify(pretrained: bool = False) -> Experiment:
    """Tell classes of texts or pairs of texts, several of them, or a number; fine-tunes --init.path."""
    return fine_tuning(
        BertConfig(**SHORT_ENCODER, head="sequence_classification"),
        TextClassification(),
        ExamplesConfig(),
        best="eval_accuracy",
        pretrained=pretrained,
    )


@Preset
def embed(pretrained: bool = False) -> Experiment:
    """Make vectors of texts: close where two belong together, or as alike as numbers say; fine-tunes --init.path."""
    return fine_tuning(
        BertConfig(**SHORT_ENCODER, head="none"),
        SentenceEmbeddings(),
        ExamplesConfig(embedded="summaries", pair_field="pair"),
        best="eval_recall@1",
        pretrained=pretrained,
        seq_len=64,
    )


@Preset
def tag(pretrained: bool = False) -> Experiment:
    """Tell what words of a text name, or which part of speech each is; fine-tunes --init.path."""
    return fine_tuning(
        BertConfig(**SHORT_ENCODER, head="token_classification"),
        TokenClassification(),
        ExamplesConfig(embedded="definitions", text_field="tokens", label_field="tags"),
        best="eval_f1",
        pretrained=pretrained,
    )


@Preset
def answer(pretrained: bool = False) -> Experiment:
    """Find the part of a context that answers a question, or that none does; fine-tunes --init.path."""
    return fine_tuning(
        BertConfig(**SHORT_ENCODER, head="question_answering"),
        QuestionAnswering(),
        ExamplesConfig(
            embedded="defaults", text_field="question", pair_field="context", label_field="answers", stride=64
        ),
        best="eval_f1",
        pretrained=pretrained,
        seq_len=256,
    )


@Preset
def choose(pretrained: bool = False) -> Experiment:
    """Tell which of several choices fits a text best; fine-tunes --init.path."""
    return fine_tuning(
        BertConfig(**SHORT_ENCODER, head="multiple_choice"),
        MultipleChoice(),
        ExamplesConfig(embedded="next_lines", text_field="context", pair_field="question"),
        best="eval_accuracy",
        pretrained=pretrained,
    )


def fine_tuning(
    model: Architecture,
    objective: Objective,
    data: ExamplesConfig,
    *,
    best: str,
    pretrained: bool,
    seq_len: int = 128,
    epochs: float = 3,
) -> Experiment:
    """Three epochs in batches of 32, by AdamW, whose rate rises at first and falls to 0 (Devlin et al. 2019, A.3).

    Args:
      model: what learns the task from nothing where there are no weights to start from.
      objective: the task's.
      data: what there is without --data.
      best: the figure of an evaluation, the higher the better, by which the best checkpoint is kept.
      pretrained: whether the run starts from weights, which learn at a lower rate.
      seq_len: tokens of an example.
      epochs: how often each example is read.
    """
    optimizer = linear(learning_rate=5e-5 if pretrained else 1e-3, warmup_steps=50, b2=0.999)
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=objective,
        data=data,
        optimizer=optimizer,
        train=TrainConfig(epochs=epochs, batch_size=32, seq_len=seq_len, eval_every=200, eval_batches=None),
        checkpoint=CheckpointConfig(every=200, best=best, best_is="highest"),
        execution=Execution(unroll=0),
    )
