"""The one exception that is a person's to mend: `train.py` and the tools print it as a line and exit with code 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a flag, file, checkpoint, tokenizer, mesh or corpus. It says what is wrong, where, and what to do."""

    exit_code = 2


class Interrupted(UserError):
    """The run was asked to stop, saved its state, and says how to go on."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: run the same command again. What Slurm's RequeueExit is to be set to."""


class Late(UserError):
    """A deadline passed; it says who is late."""

    exit_code = 124
    """What timeout(1) ends with: nothing is wrong with the input, so the same command may succeed."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that a name which is none of them probably means, in whatever case; None if none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), by_lower, 1)
    return by_lower[near[0]] if near else None


def choice_hint(name: str, choices: Iterable[str]) -> str:
    """Returns what to do about a name that is none of the choices: the one probably meant, or all of them."""
    choices = list(choices)
    near = nearest(name, choices)
    return f"did you mean {near}?" if near else f"choose from: {', '.join(choices)}"
