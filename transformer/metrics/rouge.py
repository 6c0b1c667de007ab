"""How much of a reference a summary says (Lin 2004), by Google Research's rouge-score."""

from collections.abc import Sequence

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
"""Words, pairs of words, the longest common subsequence; the same sentence by sentence, which are lines."""


def rouge(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Returns the mean F-measure of each kind, in percent; words are stemmed (Porter).

    Args:
      answers: summaries, at least one.
      targets: the reference of each.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(KINDS, use_stemmer=True)
    found = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    return {kind: 100 * sum(each[kind].fmeasure for each in found) / len(found) for kind in KINDS}
