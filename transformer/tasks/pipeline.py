"""`transformer.pipeline`: a task and a model by name, as people know it from Hugging Face Transformers."""

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.inference.restored import Restored, restore
from transformer.layers.execution import Execution
from transformer.tasks.features import FeatureExtraction, SentenceSimilarity
from transformer.tasks.fill_mask import FillMask
from transformer.tasks.generation import Summarization, Text2Text, TextGeneration, Translation
from transformer.tasks.images import ImageClassification, ImageFeatures, ZeroShotImages
from transformer.tasks.multiple_choice import MultipleChoice
from transformer.tasks.question_answering import QuestionAnswering
from transformer.tasks.speech import SpeechRecognition
from transformer.tasks.task import Task, check_names
from transformer.tasks.text_classification import TextClassification
from transformer.tasks.token_classification import TokenClassification
from transformer.tasks.zero_shot_classification import ZeroShotClassification

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        TextClassification, TokenClassification, QuestionAnswering, MultipleChoice, FillMask, FeatureExtraction,
        SentenceSimilarity, ZeroShotClassification, TextGeneration, Text2Text, Translation, Summarization,
        ImageClassification, ImageFeatures, ZeroShotImages, SpeechRecognition,
    )
}  # fmt: skip
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}

_OF_HEADS = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "multiple_choice": "multiple-choice",
    "masked_lm": "fill-mask",
    "pretraining": "fill-mask",
    "image_classification": "image-classification",
}
"""Head -> the task that it is for."""
_OF_KINDS = {
    "decoder": {"language_model": "text-generation"},
    "encoder_decoder": {"language_model": "text2text-generation"},
    "two_towers": {"contrastive": "zero-shot-image-classification"},
    "speech": {"language_model": "automatic-speech-recognition"},
    "image_encoder": {"none": "image-feature-extraction", "unpooled": "image-feature-extraction"},
}
"""Kind of model -> head -> task."""
_TRANSLATES = re.compile(r"translation_\w+_to_\w+")


def pipeline(
    task: str | None = None,
    model: epath.PathLike | Restored | None = None,
    *,
    batch_size: int = 32,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **options: Any,
) -> "Pipeline":
    """Returns a model that does a task.

    Args:
      task: its name, as `TASKS` and `ALIASES` have them, or translation_XX_to_YY; None: what the model's head is for.
      model: a run, one of its checkpoints, a folder in the Hugging Face format, or a model that is restored already.
      batch_size: inputs that the model reads together.
      dtype: what it computes in, float32 or bfloat16.
      **options: what calls say of their answers, where they do not say otherwise.

    Raises:
      UserError: an unknown task, no model, one with another head, or an option that the task does not have.
    """
    known = task is None or task in ALIASES or task in TASKS or _TRANSLATES.fullmatch(task)
    if not known:
        near = difflib.get_close_matches(str(task), [*TASKS, *ALIASES], 1)
        offered = f"did you mean {near[0]}?" if near else f"known: {', '.join([*TASKS, *ALIASES])}"
        raise UserError(f"no task {task!r}; {offered}")
    if model is None:
        raise UserError("pipeline needs model=: a run, a checkpoint, or a folder in the Hugging Face format")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give at least 1")
    restored = model if isinstance(model, Restored) else restore(os.fspath(model), Execution(dtype=dtype))
    name = task_of(restored) if task is None else ALIASES.get(task, task)
    made = Translation(restored, name) if _TRANSLATES.fullmatch(name) else TASKS[name](restored)
    return Pipeline(made, options, batch_size)


def task_of(restored: Restored) -> str:
    """Returns the task that a model's head is for."""
    architecture = restored.architecture
    task = _OF_HEADS.get(architecture.head) or _OF_KINDS.get(architecture.kind, {}).get(architecture.head)
    if task is None and architecture.vocab_size is not None:
        task = "feature-extraction"
    if task is None:
        raise UserError(f"{restored.described}, which is for no task: give one of {', '.join(TASKS)}")
    return task


class Pipeline:
    """A task with a model; called with an input, a list of inputs, or an iterator over any number of them.

    Args:
      task: the task.
      options: what calls say of their answers, by name, where they do not say otherwise.
      batch_size: inputs that the model reads together.
    """

    def __init__(self, task: Task, options: Mapping[str, Any], batch_size: int):
        self.task, self.batch_size = task, batch_size
        self._options = dict(options)
        check_names(options, task.options.names(), task.name)

    @property
    def model(self) -> Restored:
        """The model."""
        return self.task.restored

    def __call__(self, *inputs: Any, batch_size: int | None = None, **options: Any) -> Any:
        """Returns an answer, a list of answers or, of an iterator, an iterator of answers, which reads ahead little.

        Args:
          *inputs: an input of the task, a list of them, or an iterator; some tasks take what they need by name.
          batch_size: inputs that the model reads together; None: the pipeline's.
          **options: the task's.

        Raises:
          UserError: an input that the task cannot answer, by its number; an option that it does not have.
        """
        given, told = self.task.gathered(inputs, options)
        merged = self.task.options.of({**self._options, **told}, self.task.name)
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise UserError(f"batch_size is {size}: give at least 1")
        if isinstance(given, list | tuple) and not self.task.is_one(given):
            return self.task.listed(list(self._answers(given, merged, size)))
        if isinstance(given, Iterable) and not isinstance(given, _ONE):
            return self._answers(given, merged, size)
        [answer] = self.task.answers([given], merged, size, 0)
        return self.task.alone(given, answer, told)

    def _answers(self, inputs: Iterable[Any], options: Any, batch_size: int) -> Iterator[Any]:
        """Yields an answer an input, in order.

        A window of inputs is read at a time, whose texts are sorted by length. The first windows are short, so that a
        stream's first answers come soon.
        """
        stream, number, batches = iter(inputs), 0, self.task.window if isinstance(inputs, list | tuple) else 1
        while window := list(itertools.islice(stream, batches * batch_size)):
            yield from self.task.answers(window, options, batch_size, number)
            number += len(window)
            batches = min(2 * batches, self.task.window)


_ONE = (str, bytes, Mapping, list, tuple, np.ndarray)
"""What can be iterated over and is one input."""
