"""Our decoders as models of lm_eval, the field's own harness: few-shot prompting, log-likelihoods, generation.

The tokens that are read, what is cut of too long ones, and where answers end are those of the harness' own Hugging Face
backend, so that its numbers on a folder and ours on its import are the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from transformer.errors import UserError
from transformer.inference.decode import generate
from transformer.inference.likelihood import Continuation, LikelihoodModel, disjoint_windows
from transformer.inference.restored import Restored, restore
from transformer.inference.rows import batches
from transformer.inference.rules import DecodingRules
from transformer.inference.sampling import Sampling
from transformer.inference.text_generator import TextGenerator
from transformer.layers.execution import Execution
from transformer.parallel.mesh import MeshConfig, make_mesh

_FIRST_TOKENS = 32  # of an answer, before it is looked whether it has ended; then twice as many, and so on
_DEFAULT_TOKENS = 256  # of an answer, as the harness' own backend has it
_TOP_K = 50  # where a task draws, as Transformers' `generate` does


@register_model("transformer")
class HarnessModel(TemplateLM):
    """A decoder of a run or a checkpoint, on all devices.

    Args:
      pretrained: a run folder, or one of its checkpoints; or a model that is restored already, on one device.
      batch_size: texts that are read together.
      max_length: tokens that are read at once; None: the model's context.
      dtype: what the model computes in.
      mesh: which devices split what.
      max_batch_size, device: of the harness; not used.

    Raises:
      UserError: there is no decoder, or a number is none.
    """

    def __init__(
        self,
        pretrained: str | Restored,
        batch_size: int | str = 16,
        max_length: int | None = None,
        dtype: str = "float32",
        mesh: MeshConfig = MeshConfig(),
        max_batch_size: Any = None,
        device: Any = None,
    ):
        del max_batch_size, device
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UserError(f"batch_size {batch_size}: give a number of at least 1")
        self.batch_size = int(batch_size)
        if isinstance(pretrained, Restored):
            self.mesh, restored = make_mesh(MeshConfig(data=1)), pretrained
        else:
            self.mesh = make_mesh(mesh)
            execution = Execution(dtype=dtype)  # type: ignore[arg-type] - checked there
            restored = restore(pretrained, execution, self.mesh)
        self._likelihood = LikelihoodModel(restored, self.mesh, self.batch_size)
        self.max_length = self._likelihood.context if max_length is None else int(max_length)
        if not 1 <= self.max_length <= self._likelihood.context:
            raise UserError(f"max_length {max_length}: the model's context holds {self._likelihood.context} tokens")
        self._likelihood.context = self.max_length
        self._generator = TextGenerator(restored)
        self._tokenizer = restored.tokenizer
        self._name = str(restored.checkpoint)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token that a text without a context is given."""
        return self._tokenizer.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Returns the tokens of a text, framed as in training unless it begins with the begin, or not at all."""
        del kwargs
        begins = string.startswith(self._tokenizer.name_of(self.prefix_token_id) or "\0")
        if add_special_tokens is False or (add_special_tokens is None and begins):
            return self._tokenizer.encode_spelled(string).ids.tolist()
        return self._generator.encode(string) if string else []

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """Returns the log-likelihood, and whether greedy decoding would say it, of each continuation.

        `loglikelihood` of the harness calls it: each request is a pair of texts, and the tokens of both.
        """
        rows = [Continuation(context, tokens) for _, context, tokens in requests]
        found = self._likelihood(rows, progress=not kwargs.get("disable_tqdm", False))
        return [(likelihood.log_likelihood, likelihood.is_greedy) for likelihood in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-likelihood of each text, whole, in windows as long as the model reads at once."""
        windows: list[Continuation] = []
        ends = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            windows += disjoint_windows(tokens, self.max_length, self.prefix_token_id)
            ends.append(len(windows))
        found = [likelihood.log_likelihood for likelihood in self._likelihood(windows, progress=not disable_tqdm)]
        return [sum(found[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns what follows each context, up to the first of its stop texts."""
        asked: list[Any] = [request.args for request in requests]
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, (_, options) in enumerate(asked):
            groups.setdefault(repr(options), []).append(number)
        with tqdm(total=len(requests), unit="text", desc="generate", disable=disable_tqdm) as bar:
            for numbers in groups.values():
                contexts, options = [asked[number][0] for number in numbers], asked[numbers[0]][1]
                for number, answer in zip(numbers, self._answers(contexts, options), strict=True):
                    answers[number] = answer
                bar.update(len(numbers))
        return answers

    def _answers(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        """Returns the answers to contexts whose options of generation are the same."""
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(options, _DEFAULT_TOKENS))
        eos = self._tokenizer.name_of(self.eot_token_id)
        until, limit = handle_stop_sequences(kwargs.pop("until"), eos=eos), kwargs.pop("max_gen_toks")
        how = _sampling(kwargs)
        if limit >= self.max_length:
            raise UserError(f"max_gen_toks {limit}: the model reads {self.max_length} tokens at once: ask for fewer")
        room = self.max_length - limit
        rows = [(self.tok_encode(context) or [self.prefix_token_id])[-room:] for context in contexts]
        said: list[list[int]] = [[] for _ in rows]
        texts = [""] * len(rows)
        unfinished = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
        tokens, done, number = _FIRST_TOKENS, 0, 0
        while unfinished:
            new = min(tokens, limit - done)
            for chosen, filled in batches(unfinished, self.batch_size):
                outs = self._generated([rows[index] + said[index] for index in filled], new, how, number, filled)
                for index, out in zip(chosen, outs, strict=False):
                    said[index] += out
                    texts[index] = self._tokenizer.decode(said[index])
            done += new
            unfinished = [
                index
                for index in unfinished
                if len(said[index]) == done < limit and not any(stop and stop in texts[index] for stop in until)
            ]
            tokens, number = 2 * tokens, number + 1
        return [postprocess_generated_text(text, until, None) for text in texts]

    def _generated(
        self, rows: list[list[int]], new: int, how: Sampling, seed: int, places: Sequence[int]
    ) -> list[list[int]]:
        """Returns up to so many tokens that follow each row."""
        restored, settings = self._generator.restored, self._generator.settings
        stops = settings.stop_ids if settings and settings.stop_ids else (self.eot_token_id,)
        rules = settings.rules if settings else DecodingRules()
        with jax.set_mesh(self.mesh):
            outs = generate(
                restored.model,
                restored.params,
                rows,
                max_new_tokens=new,
                how=how,
                rules=rules,
                stop_ids=[*stops, self.eot_token_id],
                seed=seed,
                places=places,
            )
        return [out.tokens for [out] in outs]

    @property
    def tokenizer_name(self) -> str:
        return self._name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Returns the chat template's source; None where none is to be applied."""
        return self._generator.template.tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a conversation as text: up to where an answer begins, or to the end of its last message."""
        text = self._generator.template.render(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"]
        last = last if last in text else last.strip()  # which templates may do
        return text[: text.rindex(last) + len(last)]


def _sampling(kwargs: dict[str, Any]) -> Sampling:
    """Returns how tokens are chosen; raises UserError for an option of generation that there is not here."""
    draws, temperature = kwargs.pop("do_sample", False), kwargs.pop("temperature", 0.0)
    how = Sampling(temperature=0.0)
    if draws and temperature > 0:
        how = Sampling(temperature, top_k=kwargs.pop("top_k", _TOP_K) or None, top_p=kwargs.pop("top_p", None))
    unknown = [name for name in kwargs if name not in ("top_k", "top_p")]
    if unknown:
        raise UserError(f"the task asks to generate with {unknown[0]}, which is not supported here")
    return how if how.top_p is None or how.top_p < 1 else dataclasses.replace(how, top_p=None)
