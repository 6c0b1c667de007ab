"""Objectives: how an example becomes a batch, and how a batch becomes a loss. One file each; the table names them."""

from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.chat import Chat
from transformer.objectives.contrastive import Contrastive
from transformer.objectives.denoising import Denoising
from transformer.objectives.image_classification import ImageClassification
from transformer.objectives.masked_lm import MaskedLM
from transformer.objectives.masked_pixels import MaskedPixels
from transformer.objectives.multiple_choice import MultipleChoice
from transformer.objectives.objective import Objective
from transformer.objectives.prefix_lm import PrefixLM
from transformer.objectives.question_answering import QuestionAnswering
from transformer.objectives.sentence_embeddings import SentenceEmbeddings
from transformer.objectives.seq2seq import Seq2Seq
from transformer.objectives.span_corruption import SpanCorruption
from transformer.objectives.text_classification import TextClassification
from transformer.objectives.token_classification import TokenClassification
from transformer.objectives.transcription import Transcription
from transformer.objectives.ul2 import UL2

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        CausalLM,
        PrefixLM,
        MaskedLM,
        SpanCorruption,
        UL2,
        Denoising,
        Seq2Seq,
        ImageClassification,
        MaskedPixels,
        Contrastive,
        Transcription,
        TextClassification,
        SentenceEmbeddings,
        Chat,
        TokenClassification,
        QuestionAnswering,
        MultipleChoice,
    )
}
"""Name, as in an experiment.json -> its class."""
