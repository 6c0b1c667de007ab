"""Windows: spectrograms of the encoder's size to tokens, drawn again at a higher temperature where they look wrong.

Shape letters: B batch, F frames, C bins, S places of the encoder, D width, P tokens of a prompt, V vocabulary.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.errors import UserError
from transformer.inference import incremental
from transformer.inference.beam_search import BeamSearch, beam_search
from transformer.inference.drawing import draw
from transformer.inference.processors import Processors, until_nothing
from transformer.inference.restored import Restored
from transformer.inference.rows import padded, round_up
from transformer.inference.sampling import Sampling
from transformer.inference.speech.timestamps import TimeRules
from transformer.inference.speech.vocabulary import SpeechVocabulary
from transformer.inference.unstacked import for_decoding, restack

_PROMPT_MULTIPLE = 4
"""Prompts of few tokens are padded to a multiple of this, those with earlier text to `rows.MULTIPLE`."""


@dataclasses.dataclass(frozen=True)
class Fallback:
    """When a window is decoded again, at the next temperature (Radford et al. 2022, section 4.5)."""

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """The first is tried first; 0 is greedy."""
    compression_ratio: float | None = 2.4
    """Above it, a text repeats itself; None: whatever it is."""
    log_probability: float | None = -1.0
    """Below it, on average over the tokens, a text is unlikely; None: whatever it is."""
    no_speech: float | None = 0.6
    """Where a text is unlikely and no speech is likelier than this, the window is silent; None: never."""
    beams: int = 1
    """Beams of the search at temperature 0; 1: greedy."""


GREEDY = Fallback((0.0,), None, None, None)
"""One try, and whatever it gives."""


@dataclasses.dataclass(frozen=True)
class Window:
    """What was said in a window."""

    tokens: list[int]
    """Words and times, without the prompt and the stop token."""
    log_probability: float
    """Mean over the tokens, the stop token counted."""
    temperature: float
    no_speech: float | None = None
    """Probability of no speech, where it was asked for."""
    silent: bool = False
    """Whether it was found that nothing is said, whatever the decoder made of it."""


class WindowDecoder:
    """A speech model that decodes batches of windows; each batch size and prompt length is compiled once.

    Raises:
      UserError: the model is no speech model with a head of next words.
    """

    def __init__(self, restored: Restored):
        architecture = restored.architecture
        if architecture.kind != "speech" or architecture.head != "language_model":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model with the head {architecture.head}: only "
                "speech models with the head language_model transcribe"
            )
        self.architecture: Any = architecture
        self.model, self.params = for_decoding(architecture, restored.params, restored.execution)
        self.vocabulary = SpeechVocabulary.of(restored)
        self.tokenizer = restored.tokenizer

    def encode(self, features_BFC: np.ndarray) -> jax.Array:
        """Returns [B, S, D], what the decoder attends to."""
        return _encode(self.model, self.params, jnp.asarray(features_BFC))

    def after_start(self, memory_BSD: jax.Array, prompts: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        """Returns the probabilities of the tokens after the start, [B, V]: of languages, and of no speech.

        Args:
          memory_BSD: from `encode`.
          prompts: what the decoder reads, of which what follows the start token is left out; None: that token alone.
        """
        start = self.vocabulary.start
        given = [[start]] * len(memory_BSD) if prompts is None else prompts
        prompt, segment_ids = padded([[*row[: row.index(start)], start] for row in given], _width(given), left=True)
        return np.asarray(_after_start(self.model, self.params, memory_BSD, prompt, segment_ids))

    def languages(self, memory_BSD: jax.Array) -> list[str]:
        """Returns the likeliest language of each window."""
        names = list(self.vocabulary.languages)
        probabilities = self.after_start(memory_BSD)[:, list(self.vocabulary.languages.values())]
        return [names[best] for best in probabilities.argmax(axis=1)]

    def __call__(
        self,
        memory_BSD: jax.Array,
        prompts: Sequence[Sequence[int]],
        *,
        times: bool,
        most: int | None = None,
        fallback: Fallback = Fallback(),
        seed: int = 0,
    ) -> list[Window]:
        """Returns what is said in each window.

        Args:
          memory_BSD: from `encode`.
          prompts: what the decoder reads first: earlier text, and the prefix of the vocabulary.
          times: whether tokens of times are said.
          most: the most tokens of a window; None: half of the context, as in Whisper's released code.
          fallback: when a window is decoded again.
          seed: seed of draws, at temperatures above 0.
        """
        windows: list[Window | None] = [None] * len(prompts)
        left = list(range(len(prompts)))
        last = fallback.temperatures[-1]
        for number, temperature in enumerate(fallback.temperatures):
            # Rows are filled up, so that those that are left share the program of all.
            rows = (left * len(prompts))[: len(prompts)]
            memory = memory_BSD if rows == list(range(len(prompts))) else memory_BSD[np.asarray(rows)]
            read = [prompts[row] for row in rows]
            beams = fallback.beams if temperature == 0 else 1
            drawn = self._draw(memory, read, times, most, temperature, seed + number, beams)
            silence = None
            again = []
            for place, row in enumerate(left):
                window = drawn[place]
                unlikely = fallback.log_probability is not None and window.log_probability < fallback.log_probability
                if unlikely and fallback.no_speech is not None and self.vocabulary.no_speech is not None:
                    silence = self.after_start(memory, read) if silence is None else silence
                    no_speech = float(silence[place, self.vocabulary.no_speech])
                    window = dataclasses.replace(window, no_speech=no_speech)
                    if no_speech > fallback.no_speech:
                        windows[row] = dataclasses.replace(window, tokens=[], silent=True)
                        continue
                windows[row] = window
                if temperature != last and (unlikely or self._repeats(window, fallback)):
                    again.append(row)
            left = again
            if not left:
                break
        return [window for window in windows if window is not None]

    def text(self, tokens: Sequence[int]) -> str:
        """Returns the words of tokens, without times."""
        no_times = self.vocabulary.no_times
        return self.tokenizer.decode([token for token in tokens if no_times is None or token < no_times])

    def _repeats(self, window: Window, fallback: Fallback) -> bool:
        text = self.text(window.tokens).strip().encode()
        ratio = fallback.compression_ratio
        return ratio is not None and len(text) / max(len(zlib.compress(text)), 1) > ratio

    def _draw(
        self,
        memory_BSD: jax.Array,
        prompts: Sequence[Sequence[int]],
        times: bool,
        most: int | None,
        temperature: float,
        seed: int,
        beams: int,
    ) -> list[Window]:
        vocabulary, context = self.vocabulary, self.architecture.context_length
        longest, width = max(map(len, prompts)), _width(prompts)
        new = min(context // 2 if most is None else most, context - longest)
        if new < 1:
            raise UserError(f"a prompt of {longest} tokens leaves no room in the model's context of {context}")
        prompt, segment_ids = padded(prompts, width, left=True)
        processors = Processors.of(
            vocabulary.rules,
            stop_ids=vocabulary.stops,
            read=prompts,
            prompt_lengths=[len(tokens) for tokens in prompts],
            width=width,
            min_new=[0] * len(prompts),
            max_new=[new] * len(prompts),
        )
        if times:
            rules = TimeRules(vocabulary.first_time, vocabulary.stops[0], vocabulary.latest_first_time)
            processors = processors.replace(further=rules)
        inputs = {"prompt": prompt, "prompt_segment_ids": segment_ids, "memory": memory_BSD}
        keys_B = jax.random.split(jax.random.key(seed), len(prompts))
        if beams > 1:
            search = {"how": BeamSearch(beams), "stop_ids": vocabulary.stops, "processors": processors}
            said, means = beam_search(self.model, self.params, inputs, **search)
            found = zip(np.asarray(said)[:, 0].tolist(), np.asarray(means)[:, 0].tolist(), strict=True)
            return [Window(until_nothing(row), mean, 0.0) for row, mean in found]
        sampling = Sampling(temperature=temperature)
        drawn = inputs, keys_B, processors, sampling, 1, vocabulary.stops
        said, totals = draw(self.model, self.params, *drawn, scored=True)
        windows = []
        for row, total in zip(np.asarray(said).tolist(), np.asarray(totals).tolist(), strict=True):
            tokens = until_nothing(row)
            windows.append(Window(tokens, total / (len(tokens) + 1), temperature))
        return windows


def _width(prompts: Sequence[Sequence[int]]) -> int:
    longest = max(map(len, prompts))
    return round_up(longest, _PROMPT_MULTIPLE) if longest <= 2 * _PROMPT_MULTIPLE else round_up(longest)


@functools.partial(jax.jit, static_argnames="model")
def _encode(model: nn.Module, params: Any, features_BFC: jax.Array) -> jax.Array:
    unboxed: Any = model
    return unboxed.apply({"params": restack(unboxed.config, params)}, features_BFC, method="encode")


@functools.partial(jax.jit, static_argnames="model")
def _after_start(
    model: nn.Module, params: Any, memory_BSD: jax.Array, prompt_BP: jax.Array, prompt_segment_ids_BP: jax.Array
) -> jax.Array:
    inputs = {"prompt": prompt_BP, "prompt_segment_ids": prompt_segment_ids_BP, "memory": memory_BSD}
    return jax.nn.softmax(incremental.start(model, params, inputs, prompt_BP.shape[1])[0], axis=-1)
