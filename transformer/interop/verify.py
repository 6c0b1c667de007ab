"""Verification: a folder's model here and in Transformers on the same random tokens, and the first layer that differs.

Shape letters: B batch, T tokens, D model width.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.errors import UserError
from transformer.interop import convert
from transformer.layers.execution import Execution
from transformer.layers.heads import BackboneOutput, ClassificationOutput, PretrainingOutput
from transformer.models.architecture import Architecture
from transformer.models.two_towers import TowersOutput

TOLERANCE = 1e-5
"""Largest difference allowed, relative to an output's largest value: some 80 roundings of float32."""

_OWN_ERRORS, _MOST = 4, 10
"""Most that our error of rounding may be, in multiples of PyTorch's own error and of the tolerance."""

_ROWS, _PADDED = 2, 3


def verify(
    path: Path,
    *,
    num_tokens: int = 32,
    tolerance: float = TOLERANCE,
    pickle: bool = False,
    report: Callable[[str], None] = print,
) -> float:
    """Reports each output's difference from Transformers', relative to its size, and returns the largest.

    The size of an output is its largest absolute value: float32 rounds in proportion to that, so that real models,
    whose hidden values reach tens of thousands, are held to the same tolerance as small ones. An output beyond it is
    compared with Transformers' in float64: where PyTorch's own float32 is about as far from that as ours is, the
    difference is rounding (in deep models, up to ten times the tolerance). Otherwise the differences of the hidden
    states are reported layer by layer, each relative to its own size, up to the first that exceeds the tolerance.

    Args:
      path: a folder in the Hugging Face format.
      num_tokens: length of the random sequences, of which the second is padded on the right.
      tolerance: the largest difference allowed, relative to the output's size.
      pickle: whether the weights are a pickle.
      report: called with each line.

    Raises:
      UserError: PyTorch or Transformers is missing, the folder cannot be read by either side, or the difference is too
        large.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"verify needs PyTorch and Transformers: pip install torch transformers ({error})") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    imported = convert.import_folder(path, pickle=pickle)
    architecture = imported.architecture
    cls = getattr(transformers, imported.family.heads[architecture.head])
    with _their_failures(path):
        plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
        theirs = cls.from_pretrained(path, dtype=torch.float32, **plain).eval()
    pad, eos = (_word(architecture, getattr(theirs.config, name, None)) for name in ("pad_token_id", "eos_token_id"))
    inputs = random_inputs(architecture, num_tokens, pad=pad, eos=eos)
    what = "random images" if "images" in inputs else "random frames" if "features" in inputs else "random tokens"
    model = architecture.build(Execution(attention="reference"))

    @jax.jit
    def run(params: Any) -> Any:
        return model.apply({"params": params}, mutable=["intermediates"], **dict[str, Any](inputs))

    ours, intermediates = run(imported.params)
    named = {name: torch.tensor(array) for name, array in their_inputs(inputs).items()}
    named = {name: array if array.is_floating_point() else array.long() for name, array in named.items()}
    with torch.no_grad(), _their_failures(path):
        outputs = theirs(**named, output_hidden_states=True)

    shape = " x ".join(map(str, next(iter(inputs.values())).shape))
    report(f"{cls.__name__}, {architecture.num_params():,} parameters, {shape} {what}, float32")
    real = _real(inputs, "decoder" if "decoder_segment_ids" in inputs else "")
    worst = 0.0
    for name, have, want in compared(ours, outputs):
        difference, size = _difference(have, want, real)
        worst = float(np.maximum(worst, difference))  # not a number stays one
        report(_line(name, difference, size))
    if worst <= tolerance or _is_rounding(ours, outputs, (theirs, named), real, tolerance, report):
        return worst
    for name, have, want, mask in layers(architecture, intermediates["intermediates"], outputs, inputs):
        difference, size = _difference(have, want, mask)
        if not difference <= tolerance:
            report(f"{_line(name, difference, size)}  <- the first")
            break
        report(_line(name, difference, size))
    raise UserError(
        f"{path}: the largest difference is {worst:.3g} of its output's largest value, above the tolerance of "
        f"{tolerance:g}"
    )


def _line(name: str, difference: float, size: float) -> str:
    return f"{name:24} largest difference {difference:.3g} of the largest value, {size:.3g}"


def _is_rounding(
    ours: Any, outputs: Any, theirs: tuple[Any, Any], real: np.ndarray, tolerance: float, report: Callable[[str], None]
) -> bool:
    """Whether differences beyond the tolerance are float32's rounding; reports both sides' distances from float64.

    Args:
      ours: our model's outputs.
      outputs: Transformers' outputs in float32.
      theirs: Transformers' model and inputs.
      real: mask of the tokens that are not padding.
      tolerance: the largest difference allowed, relative to an output's size.
      report: called with each line.
    """
    from transformer.interop.rounding import in_float64

    try:
        wide = in_float64(*theirs)
    except Exception as error:  # whatever Transformers' code raises: some of it insists on float32
        report(f"not compared with float64, in which Transformers fails: {type(error).__name__}")
        return False
    near = True
    for (name, have, narrow), (_, _, truth) in zip(compared(ours, outputs), compared(ours, wide), strict=True):
        error, _ = _difference(have, truth, real)
        own, _ = _difference(narrow, truth, real)
        report(f"{name:24} from float64: ours {error:.3g} of the largest value, PyTorch's float32 {own:.3g}")
        near &= error <= max(tolerance, min(_OWN_ERRORS * own, _MOST * tolerance))
    return near


@contextlib.contextmanager
def _their_failures(path: Path) -> Iterator[None]:
    """Turns any error of Transformers about a folder into one line."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{path}: Transformers itself fails on it: {type(error).__name__}: {first}") from error


def _word(architecture: Architecture, special: Any) -> int | None:
    """Returns a special token's id, or None where the table of words has no such row.

    A config.json often keeps the ids of another vocabulary: Transformers' default for GPT-2 is 50256.
    """
    return special if type(special) is int and 0 <= special < (architecture.vocab_size or 0) else None


def random_inputs(
    architecture: Architecture, num_tokens: int, *, pad: int | None, eos: int | None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns a model's inputs, int32 [B, T]: random tokens, the second row padded on the right.

    Some of Transformers' models find the padding by its id, and classifiers the last token by being before it or by the
    id of </s>: so these ids stand where they belong, and nowhere else. Such a classifier without an id for padding
    reads one row, unpadded.
    """
    rng = np.random.default_rng(seed)
    if architecture.kind == "image_encoder":
        return {"images": rng.normal(size=(_ROWS, *architecture.input_size)).astype(np.float32)}
    assert architecture.vocab_size is not None  # what reads no images reads words
    if architecture.kind == "two_towers":
        images = rng.normal(size=(_ROWS, *architecture.input_size)).astype(np.float32)
        shape = (_ROWS, min(num_tokens, architecture.longest_input or num_tokens))
        tokens = rng.integers(0, architecture.vocab_size, shape)
        tokens[:, -1] = architecture.vocab_size - 1 if eos is None else eos
        return {"images": images, "tokens": tokens.astype(np.int32), "segment_ids": np.ones_like(tokens, np.int32)}
    num_tokens = min(num_tokens, getattr(architecture, "context_length", num_tokens))
    words = np.setdiff1d(
        np.arange(architecture.vocab_size, dtype=np.int32), [special for special in (pad, eos) if special is not None]
    )
    finds_padding = architecture.head == "sequence_classification" and architecture.kind == "decoder"
    rows, padded = (1, 0) if finds_padding and pad is None else (_ROWS, min(_PADDED, num_tokens - 1))
    inputs = {}
    prefixes = {"encoder_decoder": ("", "decoder_"), "speech": ("decoder_",)}.get(architecture.kind, ("",))
    if architecture.kind == "speech":
        inputs["features"] = rng.normal(size=(rows, *architecture.input_size)).astype(np.float32)
    for prefix in prefixes:
        tokens = rng.choice(words, (rows, num_tokens))
        segments = np.ones_like(tokens)
        segments[1:, num_tokens - padded :] = 0
        if eos is not None:
            tokens[np.arange(rows), segments.sum(axis=1) - 1] = eos
        if pad is not None:
            tokens[segments == 0] = pad
        positions = np.broadcast_to(np.arange(num_tokens, dtype=np.int32), tokens.shape)
        inputs |= {f"{prefix}tokens": tokens, f"{prefix}positions": positions, f"{prefix}segment_ids": segments}
    return inputs


def their_inputs(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same inputs by Transformers' names."""
    if "images" in inputs:
        pixels = {"pixel_values": np.ascontiguousarray(inputs["images"].transpose(0, 3, 1, 2))}
        texts = {"input_ids": inputs.get("tokens"), "attention_mask": inputs.get("segment_ids")}
        return pixels | {name: array for name, array in texts.items() if array is not None}
    if "features" in inputs:
        named = {"input_features": np.ascontiguousarray(inputs["features"].transpose(0, 2, 1))}
    else:
        named = {"input_ids": inputs["tokens"], "attention_mask": inputs["segment_ids"]}
    if "decoder_tokens" in inputs:
        named |= {
            "decoder_input_ids": inputs["decoder_tokens"],
            "decoder_attention_mask": inputs["decoder_segment_ids"],
        }
    return named


def compared(ours: Any, theirs: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields each output that both have: its name, ours and theirs."""
    if isinstance(ours, TowersOutput):
        yield "vectors of images", np.asarray(ours.images_BP), theirs["image_embeds"].numpy()
        yield "vectors of texts", np.asarray(ours.texts_NP), theirs["text_embeds"].numpy()
    elif isinstance(ours, ClassificationOutput):
        if "start_logits" in theirs:
            spans = np.stack([theirs["start_logits"].numpy(), theirs["end_logits"].numpy()], axis=-1)
            yield "start and end logits", np.asarray(ours.logits), spans
        else:
            yield "logits", np.asarray(ours.logits), theirs["logits"].numpy()
    elif isinstance(ours, BackboneOutput):
        yield "last hidden state", np.asarray(ours.hidden_BTD), theirs["last_hidden_state"].numpy()
        if ours.pooled_BD is not None and "pooler_output" in theirs:
            yield "pooled", np.asarray(ours.pooled_BD), theirs["pooler_output"].numpy()
    else:
        yield "logits", np.asarray(ours.logits), theirs["logits" if "logits" in theirs else "prediction_logits"].numpy()
        if isinstance(ours, PretrainingOutput) and ours.sentence_B2 is not None:
            name = "seq_relationship_logits" if "seq_relationship_logits" in theirs else "sop_logits"
            yield "sentence logits", np.asarray(ours.sentence_B2), theirs[name].numpy()


def layers(
    architecture: Architecture, intermediates: Any, theirs: Any, inputs: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the stacks' inputs and outputs layer by layer: name, ours [B, T, D], theirs, and the mask of real tokens.

    Transformers' last hidden state comes after the last norm, where there is one: the last layer is then left out.
    """
    pairs = {"": "hidden_states"}
    if architecture.kind == "two_towers":
        return  # Transformers hands out the layers of each tower alone
    if architecture.kind in ("encoder_decoder", "speech"):
        pairs = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}
    backbone = architecture.abstract_params()["backbone"]
    for prefix, name in pairs.items():
        stacks = _stack_states(intermediates, prefix)
        last_norm = "final_norm" in (backbone[prefix] if prefix else backbone)
        states = [state.numpy() for state in theirs[name]]
        ours = [stacks[0]["embedded"], *(state for stack in stacks for state in stack["layers"]["hidden"])]
        group = (len(states) - 1) // (len(ours) - 1)  # layers that a step of the stack runs
        states = states[::group]
        mask = _real(inputs, prefix)
        for index, (have, want) in enumerate(list(zip(ours, states, strict=True))[: -1 if last_norm else None]):
            label = "embeddings" if index == 0 else f"layer {index * group - 1}"
            yield f"{prefix} {label}".strip(), np.asarray(have), want, mask


def _real(inputs: Mapping[str, np.ndarray], side: str) -> np.ndarray:
    """Returns bool [B, T]: which tokens of a side are no padding; of images and frames [B, 1], all of them."""
    segment_ids = inputs.get("decoder_segment_ids" if side == "decoder" else "segment_ids")
    if segment_ids is None:
        return np.ones((len(next(iter(inputs.values()))), 1), bool)
    return segment_ids > 0


def _stack_states(tree: Any, prefix: str) -> list[Any]:
    """Returns the intermediates of the stacks in their order, below the module named `prefix` if one is given."""
    if not isinstance(tree, Mapping):
        return []
    if "embedded" in tree and not prefix:
        return [tree]
    return [stack for name in sorted(tree) for stack in _stack_states(tree[name], "" if name == prefix else prefix)]


def _difference(have: np.ndarray, want: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference relative to the largest absolute value, and that value, over real tokens."""
    if have.shape != want.shape:
        raise UserError(f"ours has shape {have.shape}, Transformers' {want.shape}: not the same model")
    mask = real if want.shape[:2] == real.shape and real.shape[1] > 1 else ...
    size = float(np.abs(want[mask]).max())
    largest = float(np.abs(have[mask].astype(np.float64) - want[mask]).max())
    return largest / size if size else largest, size
