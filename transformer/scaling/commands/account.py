"""An account of an architecture: its parameters and FLOPs by kind, and its FLOPs by every convention."""

from transformer.models.architecture import Architecture
from transformer.models.conventions import CONVENTIONS, SIZES, num_params
from transformer.models.counting import FLOP_KINDS, PARAMETER_KINDS


def describe(architecture: Architecture, length: int, target_length: int = 0) -> list[str]:
    """Returns the account, line by line.

    Args:
      architecture: an architecture of any family.
      length: tokens of an example; of the encoder's sequence, where there are two.
      target_length: tokens of the decoder's sequence, in an encoder-decoder.
    """
    tokens = length + target_length
    counts = architecture.counts
    params, flops = counts.params_by_kind(), counts.flops_by_kind(length, target_length)
    # Attention's pairs have no parameters of their own: they stand below its projections.
    kinds = [*PARAMETER_KINDS]
    kinds.insert(kinds.index("attention") + 1, "scores")
    lines = [f"{architecture.family}, {_lengths(length, target_length)}", ""]
    lines += [f"{'':<18}{'parameters':>18}{'':>8}{'FLOPs a token':>18}{'':>8}   (training, exact)"]
    for kind in kinds:
        count = _share(params[kind], sum(params.values()), "{:,}") if kind in PARAMETER_KINDS else " " * 26
        cost = _share(flops[kind] / tokens, sum(flops.values()) / tokens, "{:,.0f}") if kind in FLOP_KINDS else ""
        lines.append(f"{kind:<18}{count}{cost}".rstrip())
    lines += [f"{'sum':<18}{sum(params.values()):>18,}{'':>8}{sum(flops.values()) / tokens:>18,.0f}", ""]
    if architecture.routing is not None:
        lines += [f"{'active a token':<18}{architecture.active_params():>18,}", ""]
    lines += [f"N {size:<16}{num_params(architecture, size):>18,}" for size in SIZES]
    lines += ["", f"{'convention':<18}{'FLOPs a token':>18}{'/ exact':>8}"]
    total = sum(flops.values())
    for name, count in CONVENTIONS.items():
        cost = count(architecture, length, target_length)
        lines.append(f"{name:<18}{cost / tokens:>18,.0f}{cost / total:>8.3f}   {summary(name)}")
    return lines


def summary(name: str) -> str:
    """Returns one line about what a convention counts."""
    return (CONVENTIONS[name].__doc__ or "").strip().splitlines()[0]


def _lengths(length: int, target_length: int) -> str:
    return f"{length:,} + {target_length:,} tokens" if target_length else f"{length:,} tokens"


def _share(count: float, total: float, form: str) -> str:
    return f"{form.format(count):>18}{100 * count / total:>6.1f} %"
