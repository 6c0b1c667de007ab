"""Settings: the defaults of generation that an imported model's folder declares."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from etils import epath

from transformer.errors import UserError
from transformer.inference.beam_search import BeamSearch
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.interop import generation
from transformer.interop.convert import ORIGIN

DEFAULT_TOP_K = 50
"""Default `top_k` of Hugging Face Transformers' `generate`, where a folder asks for sampling without one."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Defaults of generation, with the meanings that Hugging Face Transformers' `generate` gives them."""

    source: str
    """The file that declares them: generation_config.json, or config.json where there is none."""
    how: Sampling | BeamSearch
    rules: DecodingRules
    num: int
    """Continuations for each text."""
    stop_ids: tuple[int, ...]
    """Tokens that end a text; empty: the tokenizer's own end does."""
    start_id: int | None
    """The token that an encoder-decoder's answers begin after; None: its architecture's."""
    max_new_tokens: int | None
    max_length: int | None
    """Most tokens of a continuation together with the decoder's prompt; `max_new_tokens` goes first."""
    min_new_tokens: int | None
    min_length: int
    """Least tokens, counted as in `max_length`; `min_new_tokens` goes first."""
    not_applied: tuple[str, ...]
    """Declared settings that are not applied here, each with its value."""

    @classmethod
    def of(cls, record: epath.Path) -> Self | None:
        """Returns the settings of the folder that a record's model was imported from, or None if it was not imported.

        Raises:
          UserError: an impossible setting, by file and name.
        """
        origin = record / ORIGIN
        return cls.read(origin) if origin.exists() else None

    @classmethod
    def read(cls, folder: epath.PathLike) -> Self:
        """Returns the settings that a folder in the Hugging Face format declares; raises `UserError` as `of`."""
        source, declared, not_applied = generation.read(folder)
        return cls.of_fields(source, declared, not_applied, where=str(epath.Path(folder) / source))

    @classmethod
    def of_fields(
        cls, source: str, declared: Mapping[str, Any], not_applied: tuple[str, ...] = (), *, where: str | None = None
    ) -> Self:
        """Returns the settings of fields as `generation.checked` returns them; raises `UserError` as `of`.

        Args:
          source: what declares them.
          declared: the fields.
          not_applied: declared fields that are not applied.
          where: what declares them, in full, for messages; None: `source`.
        """
        rules = [field.name for field in dataclasses.fields(DecodingRules)]
        bos = declared.get("bos_token_id", ())
        try:
            return cls(
                source=source,
                how=_how(declared),
                rules=DecodingRules(**{name: declared[name] for name in rules if name in declared}),
                num=declared.get("num_return_sequences", 1),
                stop_ids=declared.get("eos_token_id", ()),
                start_id=declared.get("decoder_start_token_id", bos[0] if bos else None),
                max_new_tokens=declared.get("max_new_tokens"),
                max_length=declared.get("max_length"),
                min_new_tokens=declared.get("min_new_tokens"),
                min_length=declared.get("min_length", 0),
                not_applied=not_applied,
            )
        except UserError as error:
            raise UserError(f"{where or source}: {error}") from error

    def max_new(self, prompt_lengths: Sequence[int]) -> list[int] | None:
        """Returns the most new tokens of each text, or None if nothing is declared.

        Args:
          prompt_lengths: number of tokens that the decoder reads of each text before its first new one.

        Raises:
          UserError: a prompt that fills `max_length`.
        """
        if self.max_new_tokens is not None:
            return [self.max_new_tokens] * len(prompt_lengths)
        if self.max_length is None:
            return None
        if (longest := max(prompt_lengths)) >= self.max_length:
            raise UserError(
                f"a text has {longest} tokens and {self.source} declares a max_length of {self.max_length} with the "
                "text: give --max-new-tokens, or a shorter text"
            )
        return [self.max_length - length for length in prompt_lengths]

    def min_new(self, prompt_lengths: Sequence[int]) -> list[int]:
        """Returns the least new tokens of each text."""
        if self.min_new_tokens is not None:
            return [self.min_new_tokens] * len(prompt_lengths)
        return [max(self.min_length - length, 0) for length in prompt_lengths]

    def __str__(self) -> str:
        """Describes the declared settings in one line."""
        words = [_described(self.how)]
        words += [f"{name} {value}" for name, value in _changed(self.rules).items()]
        lengths = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
        words += [f"{name} {getattr(self, name)}" for name in lengths if getattr(self, name)]
        words += [f"{self.num} texts each"] if self.num > 1 else []
        words += [f"ends at {', '.join(map(str, self.stop_ids))}"] if self.stop_ids else []
        return ", ".join(words)


def _how(declared: Mapping[str, Any]) -> Sampling | BeamSearch:
    if (beams := declared.get("num_beams", 1)) > 1:
        names = ("length_penalty", "early_stopping")
        return BeamSearch(beams, **{name: declared[name] for name in names if name in declared})
    if not declared.get("do_sample", False):
        return Sampling(temperature=0.0)
    top_p = declared.get("top_p", 1.0)
    return Sampling(
        temperature=declared.get("temperature", 1.0),
        top_k=declared.get("top_k", DEFAULT_TOP_K) or None,
        top_p=None if top_p >= 1 else top_p,
        min_p=declared.get("min_p"),
    )


def _described(how: Sampling | BeamSearch) -> str:
    if isinstance(how, Sampling) and how.temperature == 0:
        return "greedy"
    name = "beam search" if isinstance(how, BeamSearch) else "drawn"
    fields = {field.name: getattr(how, field.name) for field in dataclasses.fields(how)}
    return f"{name} ({', '.join(f'{field} {value}' for field, value in fields.items() if value is not None)})"


def _changed(rules: DecodingRules) -> dict[str, Any]:
    """Returns the rules that do something; long lists are replaced by their lengths."""
    changed = {}
    for field in dataclasses.fields(rules):
        value = getattr(rules, field.name)
        if value != field.default:
            long = isinstance(value, tuple) and len(value) > 4
            changed[field.name] = f"({len(value)} of them)" if long else value
    return changed
