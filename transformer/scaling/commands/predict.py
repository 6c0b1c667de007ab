"""`tools/scaling.py predict`: a loss, or the best use of a budget, by a law file."""

import dataclasses
import json
from pathlib import Path

import tyro

from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict the loss of a model, or the best use of a budget, from a fitted law."""

    law_file: tyro.conf.Positional[str]
    """A file that `fit --json` wrote, or a study's folder."""
    params: float | None = None
    """N of the model; with --tokens."""
    tokens: float | None = None
    """D of its training."""
    flops: float | None = None
    """C of a budget, 6 N D."""
    unique_tokens: float | None = None
    """Tokens of the corpus, which a longer training reads more than once; needs a law of repeats (--law repeat)."""
    law: str | None = None
    """Name of a law in the file; None: its first."""
    json: bool = False
    """Print the prediction, its intervals and the warnings as one JSON object."""


def predict(flags: Predict) -> None:
    """Prints a prediction with its intervals."""
    from transformer.scaling.laws import law_file, show
    from transformer.scaling.laws.predict import on_corpus, record, warnings

    given = {"params": flags.params, "tokens": flags.tokens, "flops": flags.flops}
    named = {name for name, value in given.items() if value is not None}
    if named not in ({"params", "tokens"}, {"flops"}):
        raise UserError("predict takes --params and --tokens, for the loss of a model, or --flops, for a budget")
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in (*values.items(), ("unique-tokens", flags.unique_tokens)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} {value}: it must be positive and finite")
    fitted, source = law_file.read(_file(flags.law_file), flags.law)
    if flags.unique_tokens is not None:
        fitted = on_corpus(fitted, flags.unique_tokens)
    if flags.json:
        print(json.dumps(law_file.plain(record(fitted, source, flags.unique_tokens, **values)), allow_nan=False))
        return
    if "flops" in values:
        lines = show.of_budget(fitted, values["flops"])
    else:
        lines = show.of_model(fitted, values["params"], values["tokens"])
    print("\n".join([*lines, *show.warnings(warnings(fitted, source, **values))]))


def _file(path: str) -> str:
    """Returns the law file's path, given it or a study's folder."""
    from transformer.scaling.laws import law_file

    return str(Path(path) / law_file.NAME) if Path(path).is_dir() else path
