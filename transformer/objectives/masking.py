"""Which tokens of a row are hidden, and what is put in their place (Devlin et al. 2019, BERT, section 3.1, task 1)."""

from collections.abc import Sequence

import numpy as np

from transformer.tokenizers.vocabulary import Vocabulary

KEPT, RANDOM = 0.1, 0.1  # of the chosen tokens; the others become [MASK]


def budget(rate: float, tokens: int) -> int:
    """Returns how many of a row's tokens are chosen, specials counted: as in BERT's `create_pretraining_data.py`."""
    return max(1, round(rate * tokens)) if tokens else 0


def begins_word(tokens: np.ndarray, maskable: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Returns bool[..., T]: where a word begins. A special cuts words, so the token after one begins a word."""
    after_special = np.ones_like(maskable)
    after_special[..., 1:] = ~maskable[..., :-1]
    return maskable & (vocabulary.begins_word[tokens] | after_special)


def choose_tokens(
    maskable: np.ndarray, counts: Sequence[int], slots: int, rngs: Sequence[np.random.Generator]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns places among those that are maskable, each as likely as another, and which slots hold one.

    Args:
      maskable: bool[B, T].
      counts: B budgets; a row with fewer maskable places has all of them chosen.
      slots: P, at least the largest budget.
      rngs: B.

    Returns:
      int[B, P], rising in each row, then 0; and bool[B, P].
    """
    none = maskable.shape[1]
    places = np.full((len(maskable), slots), none)
    ends = np.cumsum(maskable.sum(axis=1)).tolist()
    candidates, begin = np.nonzero(maskable)[1], 0
    for row, (end, count, rng) in enumerate(zip(ends, counts, rngs, strict=True)):
        chosen = rng.permutation(candidates[begin:end])[:count]
        places[row, : len(chosen)] = chosen
        begin = end
    places.sort(axis=1)
    used = places < none
    places[~used] = 0
    return places, used


def choose_words(maskable: np.ndarray, starts: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns int[at most `count`], rising: all places of whole words, in a random order, passing over those too long.

    BERT's whole word masking (its `create_pretraining_data.py`, `do_whole_word_mask`).

    Args:
      maskable: bool[T].
      starts: bool[T]: where a word begins, as `begins_word` says.
      count: the budget.
    """
    places = np.flatnonzero(maskable)
    word_of = np.cumsum(starts)[places] - 1
    sizes = np.bincount(word_of, minlength=1)
    order = rng.permutation(len(sizes))
    chosen = np.zeros(len(sizes), bool)
    for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if size <= count:
            chosen[word] = True
            count -= size
            if not count:
                break
    return places[chosen[word_of]]


def corrupt(
    tokens: np.ndarray,
    places: np.ndarray,
    used: np.ndarray,
    together: np.ndarray | None,
    vocabulary: Vocabulary,
    rngs: Sequence[np.random.Generator],
) -> np.ndarray:
    """Returns `tokens` with those at `places` hidden: 80 % are [MASK], 10 % a random piece, 10 % what they were.

    Args:
      tokens: int32[B, T].
      places: int[B, P].
      used: bool[B, P]: which of the places are chosen, the first so many of each row.
      together: int[B, P], 0, 1, ... in each row: tokens of one number meet one fate, as SpanBERT (Joshi et al. 2020,
        section 3.1) has it of each span. None: each token has its own, as in BERT.
      vocabulary: gives [MASK] and the random pieces.
      rngs: B.
    """
    counts = used.sum(axis=1)
    if together is None:
        fates = np.concatenate([rng.random(count) for count, rng in zip(counts.tolist(), rngs, strict=True)])
    else:
        numbers = [row[:count] for row, count in zip(together, counts.tolist(), strict=True)]
        draws = ((rng.random(int(n[-1]) + 1 if len(n) else 0), n) for n, rng in zip(numbers, rngs, strict=True))
        fates = np.concatenate([fate[n] for fate, n in draws])
    random = vocabulary.random_ids(used, rngs)[used]
    rows, chosen = np.nonzero(used)[0], places[used]
    changed = np.where(fates < 1 - KEPT - RANDOM, np.int32(vocabulary.mask), random)
    hidden = tokens.copy()
    hidden[rows, chosen] = np.where(fates < 1 - KEPT, changed, tokens[rows, chosen])
    return hidden
