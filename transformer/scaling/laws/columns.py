"""Columns of a file by role (N, D, C, the loss): as flags name them, or by the names that people usually give them."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from transformer.errors import UserError
from transformer.scaling.laws.cell_numbers import all_numbers
from transformer.scaling.laws.csv_file import CsvFile

COUNTED = "6ND"
"""Value of --flops in place of a column: C = 6 N D, whatever columns there are."""

_KNOWN = {
    "params": (
        "n params param parameters num_params n_params nparams num_parameters n_parameters model_params total_params "
        "param_count parameter_count model_size non_embedding_params params_non_embedding"
    ),
    "tokens": (
        "d tokens num_tokens n_tokens ntokens train_tokens training_tokens tokens_seen tokens_trained total_tokens "
        "token_count"
    ),
    "flops": (
        "c flops flop compute train_flops training_flops total_flops num_flops n_flops training_compute train_compute"
    ),
    "loss": (
        "loss final_loss val_loss valid_loss validation_loss eval_loss test_loss train_loss training_loss nll "
        "cross_entropy"
    ),
    "unique_tokens": "u unique unique_tokens num_unique_tokens n_unique_tokens unique_d",
    "budget": "c flops flop compute budget train_flops training_flops total_flops training_compute train_compute",
    "optimum": (
        "n n* n_star n_opt nopt n_best params parameters params_opt opt_params optimal_params best_params "
        "optimal_size best_size model_size"
    ),
    "deviation": "sd std stddev std_dev sigma se stderr deviation standard_deviation standard_error n_sd n_std sd_n",
}
"""Usual names by role, in lower case, words joined by `_`."""
_WORDS = {
    "params": "N, the parameters (--params)",
    "tokens": "D, the tokens (--tokens)",
    "flops": "C, the training FLOPs (--flops)",
    "loss": "the loss (--loss)",
    "unique_tokens": "the unique tokens (--unique-tokens)",
    "budget": "C, the budgets",
    "optimum": "N*, their best sizes",
    "deviation": "the standard deviations of N*",
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns; None: one of the usual names, in upper or lower case."""

    params: str | None = None
    """N of a run; C / (6 D) where there is no such column."""
    tokens: str | None = None
    """D, tokens read in training; C / (6 N) where there is none, or where `flops` is named and this is not."""
    loss: str | None = None
    """Loss of the trained model, nats."""
    flops: str | None = None
    """C, FLOPs of the training; 6 N D where there is none, where `params` and `tokens` are named, or if it is 6ND."""
    unique_tokens: str | None = None
    """Tokens that the corpus has, where they were read more than once."""


def resolve(file: CsvFile, columns: Columns) -> Columns:
    """Returns the columns by their names in the file; None for those that it lacks or that follow from others.

    Raises:
      UserError: a named column is missing or twice there, two columns have usual names of one thing, or there are no
        two of N, D and C, or no loss: all of it in one line.
    """
    named = {role: name for role, name in dataclasses.asdict(columns).items() if name is not None}
    if counted := named.get("flops", "").upper() == COUNTED:
        del named["flops"]
    wrong = file.wrong_names((role.replace("_", "-"), name) for role, name in named.items())
    wanted = ["params", "loss", "unique_tokens"]
    wanted += ["tokens"] if "flops" not in named or "params" not in (*named, *usual(file, "params")) else []
    wanted += ["flops"] if not counted and not ("params" in named and "tokens" in named) else []
    names, unclear = _complete(file, wanted, named)
    wrong += unclear
    missing = [role for role in ("params", "tokens", "flops") if role not in names]
    if len(missing) > 1:
        lacks = [_WORDS[role] for role in missing if not (role == "flops" and len(missing) == 2 and counted)]
        known = [role for role in ("params", "tokens", "flops") if role in names]
        need = f"one of {' and '.join(lacks)}" if known else f"two of {', '.join(lacks)}"
        wrong.append(f"no column for {need}")
    if "loss" not in names:
        wrong.append(f"no column for {_WORDS['loss']}")
    if wrong:
        raise file.lacking(wrong)
    return Columns(**names)


def of_pairs(file: CsvFile, named: Sequence[str] = ()) -> tuple[str, str, str]:
    """Returns the columns of C, N* and its standard deviation, as named or by their usual names.

    Raises:
      UserError: not three are named, one is missing or twice there, or two have usual names of one thing.
    """
    roles = "budget", "optimum", "deviation"
    if named and len(named) != len(roles):
        raise UserError(
            f"--pair-columns takes three names, of C, N* and its standard deviation; {len(named)} given: "
            f"{', '.join(named)}"
        )
    wrong = file.wrong_names(("pair-columns", name) for name in named)
    names, unclear = _complete(file, roles, dict(zip(roles, named, strict=False)))
    wrong += unclear
    if missing := [_WORDS[role] for role in roles if role not in names]:
        wrong.append(f"no column for {', or '.join(missing)} (name all three: --pair-columns C N sd)")
    if wrong:
        raise file.lacking(wrong)
    budget, optimum, deviation = (names[role] for role in roles)
    return budget, optimum, deviation


def usual(file: CsvFile, role: str) -> list[str]:
    """Returns the columns with a usual name of a role; of several, only those that hold numbers."""
    names = [name for name in file.header if re.sub(r"[\s\-.]+", "_", name.lower()) in _KNOWN[role].split()]
    return [name for name in names if all_numbers(file.column(name))] if len(set(names)) > 1 else names


def _complete(file: CsvFile, roles: Iterable[str], named: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Returns the columns by role, named or with a usual name, and a line for each role that two columns could have."""
    names, unclear = dict(named), []
    for role in roles:
        if role in named:
            continue
        candidates = [name for name in usual(file, role) if name not in named.values()]
        if len(candidates) > 1:
            unclear.append(f"{len(candidates)} columns that could be {_WORDS[role]}: {', '.join(candidates)}; name one")
        if candidates:
            names[role] = candidates[0]
    return names, unclear
