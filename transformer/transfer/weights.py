"""A run that starts from other weights: another run's, or imported ones; all of them, or those that it asks for."""

from collections.abc import Callable
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from transformer import checkpoint
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.sharding import abstract_on
from transformer.tokenizers.extended import check_extended
from transformer.tokenizers.kinds import is_file, load_tokenizer, read_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.training.experiment import Experiment
from transformer.transfer.graft import Graft, Rules, leaves, plan
from transformer.transfer.listing import listing


def planned(experiment: Experiment) -> Graft:
    """Returns what becomes of the weights that an experiment starts from; reads none of them.

    Raises:
      UserError: it cannot start from them.
    """
    found = checkpoint.find(str(experiment.init_from))
    rules = Rules(experiment.init_leaves, experiment.init_vocabulary, experiment.init_positions)
    try:
        return plan(checkpoint.read_architecture(found), experiment.model, rules)
    except UserError as error:
        raise UserError(f"--init-from {experiment.init_from}: {error}") from error


def transferred(experiment: Experiment, fresh: Any, mesh: Mesh, say: Callable[[str], None]) -> Any:
    """Returns the parameters that an experiment starts from; reads only what it takes of the source.

    Args:
      experiment: one that `planned` accepts.
      fresh: the initial parameters, whose shardings the result has.
      mesh: today's devices.
      say: gets a few lines that name what is taken, extended, new and left out.
    """
    found = checkpoint.find(str(experiment.init_from))
    made = planned(experiment)
    have, want = leaves(checkpoint.read_architecture(found)), leaves(experiment.model)
    wanted = {path: want[path] for path in made.taken}
    for path, how in made.extended.items():
        # Whole along the axis that grows: what a mesh divides may be the longer one alone.
        names = tuple(None if axis == how.axis else name for axis, name in enumerate(have[path].names))
        wanted[path] = have[path].replace(names=names)
    params = checkpoint.restore_params(found, abstract_on(unflatten_dict(wanted, sep="/"), mesh), partial=True)
    say(f"weights from {found}")
    for line in listing(made, have, want):
        say(line)
    return made.assemble(flatten_dict(params, sep="/"), flatten_dict(fresh, sep="/"))


def tokenizer_for(experiment: Experiment) -> Tokenizer | None:
    """Returns the tokenizer that the weights know, which an experiment on text starts from; None: its corpus decides.

    The tokenizer comes with the vocabulary's rows: without any of them it is free. A file that `--data.tokenizer` names
    may have more pieces than the weights know. (The name of a kind may be a preset's default: it gives way.)

    Raises:
      UserError: the file gives other ids to what the weights know; the weights came without a tokenizer, and a new one
        would be trained.
    """
    made, data, vocab_size = planned(experiment), experiment.data, experiment.model.vocab_size
    if vocab_size is None or not isinstance(data, TextConfig):
        return None
    named = data.tokenizer
    if not any("vocab" in leaf.names for path, leaf in leaves(experiment.model).items() if path not in made.new):
        return None
    known = tokenizer_of(str(experiment.init_from))
    if known is None and named in ("unigram", "bpe"):
        raise UserError(
            f"--init-from {experiment.init_from} came without its tokenizer, and a new one's ids would mean nothing to "
            "its weights: name it by --data.tokenizer, or take other arrays than the vocabulary's by --init-leaves"
        )
    if known is None or not is_file(named):
        return known
    new = read_tokenizer(named, vocab_size)
    check_extended(new, known, f"--data.tokenizer {named}")
    return new


def tokenizer_of(source: str) -> Tokenizer | None:
    """Returns the tokenizer that a checkpoint's weights know; None where it came without one."""
    folder = checkpoint.find(source) / "record" / "tokenizer"
    return load_tokenizer(str(folder)) if folder.exists() else None
