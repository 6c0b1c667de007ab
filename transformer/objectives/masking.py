"""Which tokens of a row are hidden, and what is put in their place (Devlin et al. 2019, BERT, section 3.1, task 1)."""

import numpy as np

from transformer.data.vocabulary import Vocabulary

KEPT, RANDOM = 0.1, 0.1  # of the chosen tokens; the others become [MASK]


def budget(rate: float, tokens: int) -> int:
    """Returns how many of a row's tokens are chosen, specials counted: as in BERT's `create_pretraining_data.py`."""
    return max(1, round(rate * tokens)) if tokens else 0


def begins_word(tokens: np.ndarray, maskable: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Returns bool[T]: where a word begins. A special cuts words, so the token after one begins a word."""
    after_special = np.concatenate(([True], ~maskable[:-1]))
    return maskable & (vocabulary.begins_word[tokens] | after_special)


def choose_tokens(maskable: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns int[at most `count`], rising: places among those that are maskable, each as likely as another."""
    places = np.flatnonzero(maskable)
    return np.sort(rng.permutation(places)[:count])


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
    tokens: np.ndarray, places: np.ndarray, together: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator
) -> np.ndarray:
    """Returns `tokens` with those at `places` hidden: 80 % are [MASK], 10 % a random piece, 10 % what they were.

    Args:
      tokens: int32[T].
      places: int[K].
      together: int[K], 0, 1, ...: tokens of one number meet one fate. BERT gives each token a number of its own,
        SpanBERT (Joshi et al. 2020, section 3.1) each span.
    """
    fate = rng.random(int(together[-1]) + 1 if len(together) else 0)[together]
    random = vocabulary.random_ids(len(places), rng)
    changed = np.where(fate < 1 - KEPT - RANDOM, np.int32(vocabulary.mask), random)
    hidden = tokens.copy()
    hidden[places] = np.where(fate < 1 - KEPT, changed, tokens[places])
    return hidden
