"""The heads of decoder-only models, which all families of Transformers name alike."""

from transformer.interop.engine import Rule
from transformer.interop.transforms import kernel
from transformer.models.decoder import DecoderHead

_MATRIX = kernel(transposed=True)


def head_rules(
    head: DecoderHead, *, tied: bool, embedding: str, token_classifier: str = "score"
) -> tuple[tuple[Rule, ...], dict[str, str]]:
    """Returns the rules of a head's weights, and the aliases of a tied one.

    Args:
      head: ours.
      tied: whether the unembedding is the embedding.
      embedding: the embedding's name.
      token_classifier: what the family calls the layer of its token classifier.
    """
    if head == "language_model":
        if tied:
            return (), {"lm_head.weight": embedding}
        return (Rule("lm_head.weight", ("head/kernel",)),), {}
    if head == "none":
        return (), {}
    if head == "sequence_classification":
        return (Rule("score.weight", ("head/out/kernel",), _MATRIX),), {}
    name = token_classifier if head == "token_classification" else "qa_outputs"
    return (
        Rule(f"{name}.weight", ("head/out/kernel",), _MATRIX),
        Rule(f"{name}.bias", ("head/out/bias",)),
    ), {}
