"""A run that starts from other weights: another run's, or imported ones; all of them, or those that it asks for."""

from collections.abc import Callable, Collection
from typing import Any

from jax.sharding import Mesh

from transformer import checkpoint
from transformer.adapters.adaptation import Adaptation, adaptation
from transformer.adapters.config import AdapterConfig
from transformer.checkpoint.adapted import is_adapter
from transformer.data.chats.config import ChatConfig
from transformer.data.examples.config import ExamplesConfig
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.parallel.layout import abstract_on
from transformer.params import flatten, unflatten
from transformer.tokenizers.extended import check_extended
from transformer.tokenizers.kinds import is_file, load_tokenizer, read_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.transfer.config import InitConfig
from transformer.transfer.graft import Graft, plan
from transformer.transfer.listing import listing


def planned(init: InitConfig, model: Architecture) -> Graft:
    """Returns what becomes of the weights at `init.path` in a model; reads none of them.

    Raises:
      UserError: the model cannot start from them.
    """
    source = checkpoint.find(str(init.path))
    if is_adapter(source):
        raise UserError(
            f"--init.path {init.path} is an adapter, no whole model: merge it first (tools/checkpoint.py merge)"
        )
    try:
        return plan(checkpoint.read_architecture(source), model, init)
    except UserError as error:
        raise UserError(f"--init.path {init.path}: {error}") from error


def adapted(config: AdapterConfig, init: InitConfig, model: Architecture) -> Adaptation | None:
    """Returns the adapter of the weights at `init.path`; None where the config has none, and all is trained.

    What is new in the model, or longer than in the weights, is trained with it.

    Raises:
      UserError: the model cannot start from the weights, or a pattern names nothing.
    """
    if config.rank == 0:
        return None
    if init.layers is not None or init.decoder_layers is not None:
        raise UserError("--init.layers: an adapter is of a whole model, with all of its layers: leave one of both out")
    return adaptation(config, model, planned(init, model).taken)


def transferred(
    init: InitConfig,
    model: Architecture,
    fresh: Any,
    mesh: Mesh,
    report: Callable[[str], None],
    only: Collection[str] | None = None,
) -> Any:
    """Returns the parameters that a run starts with; reads only what it takes of the source.

    Args:
      init: where they come from, as `planned` accepts it.
      model: the run's.
      fresh: the initial parameters, whose shardings the result has.
      mesh: today's devices.
      report: gets a few lines that name what is taken, extended, new and left out.
      only: paths of the parameters that are wanted, beside an adapter; None: all.
    """
    source = checkpoint.find(str(init.path))
    fates = planned(init, model)
    frozen = [] if only is None else [path for path in fates.taken if path not in only]
    fates = fates if only is None else fates.only(only)
    have = flatten(checkpoint.read_architecture(source).abstract_params())
    want = flatten(model.abstract_params())
    read = {path: want[path] for path in fates.taken}
    for path, how in fates.extended.items():
        # Whole along the axis that grows: what a mesh divides may be the longer one alone.
        names = tuple(None if axis == how.axis else name for axis, name in enumerate(have[path].names))
        read[path] = have[path].replace(names=names)
    for path in fates.picked:
        # Whole along the layers: what a pipeline divides may be the fewer alone.
        read[path] = have[path].replace(names=(None, *have[path].names[1:]))
    params = checkpoint.restore_params(source, abstract_on(unflatten(read), mesh), partial=True) if read else {}
    report(f"weights from {source}")
    for line in listing(fates, have, want, frozen):
        report(line)
    return fates.assemble(flatten(params), flatten(fresh))


def tokenizer_for(
    init: InitConfig, model: Architecture, data: TextConfig | ExamplesConfig | ChatConfig
) -> Tokenizer | None:
    """Returns the tokenizer that the weights at `init.path` know; None: the corpus decides.

    The tokenizer comes with the vocabulary's rows: without any of them it is free. A file that `data.tokenizer` names
    may have more pieces than the weights know. (The name of a kind may be a preset's default: it gives way.)

    Raises:
      UserError: the file gives other ids to what the weights know; the weights came without a tokenizer, and a new one
        would be trained.
    """
    if model.vocab_size is None:
        return None
    fates = planned(init, model)
    if init.weights and not any(
        "vocab" in leaf.names for path, leaf in model.parameters.items() if path not in fates.new
    ):
        return None
    known = tokenizer_of(str(init.path))
    if known is None and data.tokenizer in ("unigram", "bpe"):
        raise UserError(
            f"--init.path {init.path} came without its tokenizer, and a new one's ids would mean nothing to its "
            "weights: name it by --data.tokenizer, or take other arrays than the vocabulary's by --init.leaves"
        )
    if known is None or not is_file(data.tokenizer):
        return known
    new = read_tokenizer(data.tokenizer, model.vocab_size)
    check_extended(new, known, f"--data.tokenizer {data.tokenizer}")
    return new


def tokenizer_of(source: str) -> Tokenizer | None:
    """Returns the tokenizer that a checkpoint's weights know; None where it came without one."""
    folder = checkpoint.find(source) / "record" / "tokenizer"
    return load_tokenizer(str(folder)) if folder.exists() else None
