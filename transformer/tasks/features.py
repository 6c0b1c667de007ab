"""Features of texts: what a model makes of each token; and how alike texts are, by a vector each."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.interop.convert import ORIGIN
from transformer.tasks.reader import hidden_states
from transformer.tasks.task import Options, RowTask, fields_of, text_of
from transformer.tasks.text_classification import truncated
from transformer.tokenizers.framing import Length, Row, Text
from transformer.transfer.graft import graft


def without_head(restored: Restored) -> Restored:
    """Returns the model below its head.

    Raises:
      UserError: it reads no text.
    """
    architecture: Any = restored.architecture
    if architecture.kind not in ("encoder", "decoder", "encoder_decoder"):
        raise UserError(f"{restored.described}: it has no features of texts")
    head = "unpooled" if "unpooled" in getattr(architecture, "heads", ()) else "none"
    if architecture.head == head:
        return restored
    wanted = dataclasses.replace(architecture, head=head)
    params, _, _ = graft(architecture, wanted, restored.params)
    return dataclasses.replace(restored, architecture=wanted, model=wanted.build(restored.execution), params=params)


@dataclasses.dataclass(frozen=True)
class FeatureOptions(Options):
    """How features come."""

    truncation: bool = False
    """Whether a text that is too long is cut; otherwise it is refused."""
    return_tensors: bool = False
    """Whether they come as an array, float32 [1, T, D], and not as lists."""


class FeatureExtraction(RowTask):
    """A model below its head: the hidden states of each token, in a list of one text."""

    name, options, read, window = "feature-extraction", FeatureOptions, hidden_states, 4

    def __init__(self, restored: Restored):
        super().__init__(without_head(restored))

    def texts(self, given: Any, options: FeatureOptions) -> list[Text]:
        return [text_of(given)]

    def length(self, options: FeatureOptions) -> tuple[Length | None, bool]:
        return truncated(self.restored, options.truncation, None), False

    def answer(
        self, given: str, rows: Sequence[Sequence[Row]], scores: Sequence[Sequence[np.ndarray]], options: FeatureOptions
    ) -> Any:
        [[hidden_TD]] = scores
        return hidden_TD[None] if options.return_tensors else [hidden_TD.tolist()]


class SentenceSimilarity(RowTask):
    """Cosines between the vector of a text and those of others.

    An input is a dict with "source_sentence" and "sentences", an answer a list of a number in [-1, 1] for each of the
    sentences. A vector is made as the model's sentence-transformers folder says, or else is the mean over the tokens.
    """

    name, options, read, window = "sentence-similarity", Options, hidden_states, 4

    def __init__(self, restored: Restored):
        super().__init__(without_head(restored))
        self._pooled, self._most = sentence_settings(restored)

    def texts(self, given: Any, options: Options) -> list[Text]:
        source, sentences = fields_of(given, "source_sentence", "sentences")
        if not isinstance(sentences, list | tuple) or not sentences:
            raise UserError("sentences are to be a list of texts, at least one")
        return [text_of(source, "source_sentence"), *(text_of(each, "a sentence") for each in sentences)]

    def length(self, options: Options) -> tuple[Length | None, bool]:
        """As sentence-transformers does, a text that is too long is cut."""
        return truncated(self.restored, True, self._most), False

    def answer(
        self, given: Any, rows: Sequence[Sequence[Row]], scores: Sequence[Sequence[np.ndarray]], options: Options
    ) -> list[float]:
        vectors = np.stack([self.vector(hidden_TD) for [hidden_TD] in scores])
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        return (vectors[1:] @ vectors[0]).tolist()

    def vector(self, hidden_TD: np.ndarray) -> np.ndarray:
        """Returns a text's vector, [D]."""
        if self._pooled == "cls":
            return hidden_TD[0]
        return hidden_TD.max(axis=0) if self._pooled == "max" else hidden_TD.mean(axis=0)


_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}


def sentence_settings(restored: Restored) -> tuple[str, int | None]:
    """Returns how a sentence-transformers folder pools tokens to a text's vector, and the most tokens of a text.

    Raises:
      UserError: it pools in a way, or in several ways, that is not known here.
    """
    origin = restored.record / ORIGIN
    settings = _settings(origin / "sentence_bert_config.json")
    most = settings.get("max_seq_length")
    for module in _settings(origin / "modules.json") or []:
        if not module["type"].endswith("Pooling"):
            continue
        pooling: dict[str, Any] = _settings(origin / module["path"] / "config.json")
        flags = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
        told = [str(pooling["pooling_mode"])] if "pooling_mode" in pooling else flags
        poolings = [_POOLINGS.get(name, name) for name in told] or ["mean"]
        if len(poolings) > 1 or poolings[0] not in _POOLINGS.values():
            raise UserError(f"{restored.checkpoint} pools by {', '.join(poolings)}: known are mean, cls and max alone")
        return poolings[0], most
    return "mean", most


def _settings(path: epath.Path) -> Any:
    """Returns what a file of settings holds; nothing where there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}
