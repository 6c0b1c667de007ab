"""The special tokens of a speech model: languages, tasks, times, and what it never says."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Self

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.rules import DecodingRules
from transformer.interop import generation
from transformer.interop.convert import ORIGIN
from transformer.tokenizers.tokenizer import Tokenizer

TASKS = ("transcribe", "translate")
SECONDS_A_TIME = 0.02
"""What the tokens of times count in, which is also a place of the encoder."""


@dataclasses.dataclass(frozen=True)
class SpeechVocabulary:
    """What the ids beyond the words are for; a model that was trained without them has None or nothing."""

    start: int
    """The token that every transcript starts with."""
    stops: tuple[int, ...]
    """The tokens that end it."""
    rules: DecodingRules
    """Tokens that are never said, or not first."""
    languages: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Code of a language, as "en" -> its token; empty: the model knows one language and has no token for it."""
    tasks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    no_times: int | None = None
    """The token after which no times are said."""
    previous: int | None = None
    """The token that stands before the text of earlier windows."""
    no_speech: int | None = None
    """The token whose probability, right after the start, is that of no speech."""
    latest_first_time: int | None = None
    """The latest time that a transcript's first segment may start at, in `SECONDS_A_TIME`; None: any."""
    alignment_heads: tuple[tuple[int, int], ...] = ()
    """(layer, head) of cross-attention that show where in the sound a word is."""

    @property
    def first_time(self) -> int:
        """The token of 0 seconds, which the others follow in order."""
        if self.no_times is None:
            raise UserError("this model has no tokens of times: leave --timestamps out")
        return self.no_times + 1

    @classmethod
    def of(cls, restored: Restored) -> Self:
        """Returns a checkpoint's vocabulary: as its folder's generation_config.json has it, or its tokenizer."""
        start, tokenizer = restored.architecture.first_decoder_token, restored.tokenizer
        assert start is not None
        origin = restored.record / ORIGIN
        if not (origin / generation.FILE).exists():
            return cls(start, (tokenizer.eos_id,), DecodingRules())
        fields: dict[str, Any] = json.loads((origin / generation.FILE).read_text())
        _, declared, _ = generation.read(origin)
        rules = {name: declared[name] for name in ("suppress_tokens", "begin_suppress_tokens") if name in declared}
        no_times = fields.get("no_timestamps_token_id")
        languages = {name.strip("<|>"): token for name, token in (fields.get("lang_to_id") or {}).items()}
        previous = fields.get("prev_sot_token_id", _named(tokenizer, "<|startofprev|>"))
        # The last of the specials before the times is that of no times, and the one before it that of no speech.
        no_speech = _named(tokenizer, "<|nospeech|>", "<|nocaptions|>")
        return cls(
            start=start,
            stops=declared.get("eos_token_id", (tokenizer.eos_id,)),
            rules=DecodingRules(**rules),
            languages=languages,
            tasks=fields.get("task_to_id") or {},
            no_times=no_times,
            previous=previous,
            no_speech=no_times - 1 if no_speech is None and no_times is not None else no_speech,
            latest_first_time=fields.get("max_initial_timestamp_index"),
            alignment_heads=tuple((layer, head) for layer, head in fields.get("alignment_heads") or ()),
        )

    def prefix(self, language: str | None, task: str, *, times: bool) -> list[int]:
        """Returns the tokens that a transcript in a language starts with."""
        prefix = [self.start]
        if self.languages:
            assert language is not None
            prefix += [self.languages[language], self.tasks[task]]
        if not times and self.no_times is not None:
            prefix.append(self.no_times)
        return prefix

    def check(self, language: str | None, task: str) -> None:
        """Raises `UserError` for a language or a task that the model does not have."""
        if task not in TASKS:
            raise UserError(f"--task {task}: give {' or '.join(TASKS)}")
        if self.languages:
            if language is not None and language not in self.languages:
                raise UserError(f"--language {language}: the model knows {', '.join(sorted(self.languages))}")
        elif language not in (None, "en") or task != "transcribe":
            flag = f"--task {task}" if task != "transcribe" else f"--language {language}"
            raise UserError(f"{flag}: the model knows one language, and only transcribes it")


def _named(tokenizer: Tokenizer, *names: str) -> int | None:
    for name in names:
        try:
            return tokenizer.special_id(name)
        except UserError:
            continue
    return None
