"""Processes that must be alike: facts are compared across a job, and the process that differs is named.

Where all are alike, which is the rule, a process sends one short hash and learns the others'. Facts are sent only once
some hash differs, and only those of two kinds of process: the one that differs, and the first that most are like.
"""

import collections
import dataclasses
import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformer.cluster.agreement import alone, exchange, own_index, process_name, together_do
from transformer.errors import UserError

_SHOWN = 4
"""Facts that a message names of each fingerprint, and processes of those that differ."""
_WIDTH = 100
"""Characters of a value that a message shows."""
_SENT = 20_000
"""Characters of a part that are sent; a constant in a program may have millions."""
_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Facts about a process that must be the same in all processes of its job."""

    noun: str
    """What the facts make up: `code`."""
    verb: str
    """What a process does that differs from another in them: `runs other code than`."""
    facts: Mapping[str, Any]
    """Name -> JSON value. A message names a few that differ, with both values."""
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name -> text, of what there are too many for a message, in order: the first that differs is named."""
    part: str = ""
    """What a part is: `file`."""

    @property
    def digest(self) -> str:
        """A hash of all facts and parts."""
        return digest([self.facts, list(self.parts.items())])


def digest(value: Any) -> str:
    """Returns a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def check_alike(what: str, gather: Callable[[], Sequence[Fingerprint]]) -> None:
    """Raises the same UserError on all processes unless the fingerprints of all are equal; alone, gathers nothing.

    All processes must call it. The message names the first process that differs from most others (of two, the second).

    Args:
      what: the question's name, as in `exchange`.
      gather: returns this process's fingerprints; what it raises, all raise.
    """
    if alone():
        return
    own = {fingerprint.noun: fingerprint for fingerprint in together_do(what, gather)}
    digests = {noun: fingerprint.digest for noun, fingerprint in own.items()}
    if len(set(exchange(what, digest(digests)))) > 1:
        raise UserError(_difference(what, own, digests))


def _difference(what: str, own: Mapping[str, Fingerprint], digests: Mapping[str, str]) -> str:
    """Returns a line that names a process that differs, and in what. All processes return the same."""
    everyone = exchange(what, {"host": socket.gethostname(), "digests": digests})
    usual = {noun: _usual([process["digests"].get(noun) for process in everyone]) for noun in _nouns(everyone)}
    odd = {
        index: nouns
        for index, process in enumerate(everyone)
        if (nouns := [noun for noun, like in usual.items() if _has_other(process, everyone[like], noun)])
    }
    first, nouns = next(iter(odd.items()))
    speaks = own_index() in {first, *(usual[noun] for noun in nouns)}
    facts: list[Any] = exchange(what, _told(own, nouns) if speaks else None)
    part_of = {noun: _first_other(facts[first][noun]["parts"], facts[usual[noun]][noun]["parts"]) for noun in nouns}
    texts: list[Any] = exchange(what, _texts(own, part_of) if speaks else None)
    clauses = []
    for noun in nouns:
        like = usual[noun]
        odds, others = ({**facts[index][noun], "text": texts[index][noun]} for index in (first, like))
        than = f"process {like} on {everyone[like]['host']}"
        clauses.append(_clause(than, odds, others, part_of[noun]))
    needs = f"all processes of a job must have the same {' and '.join(nouns)}"
    also = _also([*odd][1:])
    return f"{process_name(first)} on {everyone[first]['host']} {'; it '.join(clauses)}{also}; {needs}"


def _clause(than: str, odd: Mapping[str, Any], usual: Mapping[str, Any], part: str | None) -> str:
    """Returns how a process differs from the one that `than` names, in one fingerprint; `part` is the first other."""
    phrases = _differing(odd["facts"], usual["facts"])
    if part is not None:
        kind = odd["part"] or usual["part"]
        phrases.append(f"the first {kind} that differs is {part} ({_both(odd['text'], usual['text'])})")
    return f"{odd['verb'] or usual['verb']} {than}: {', '.join(phrases)}"


def _nouns(everyone: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns what any process has a fingerprint of: other code may have others."""
    return list(dict.fromkeys(noun for process in everyone for noun in process["digests"]))


def _usual(digests: Sequence[str | None]) -> int:
    """Returns the first process of the largest group of equal ones; of equally large groups, of the first."""
    counts = collections.Counter(digests)
    return digests.index(max(counts, key=counts.__getitem__))


def _has_other(process: Mapping[str, Any], usual: Mapping[str, Any], noun: str) -> bool:
    return process["digests"].get(noun) != usual["digests"].get(noun)


def _told(own: Mapping[str, Fingerprint], nouns: Iterable[str]) -> dict[str, Any]:
    """Returns the facts of these fingerprints as JSON values, and of their parts the hashes."""
    nothing = Fingerprint("", "", {})
    told = {noun: own.get(noun, nothing) for noun in nouns}
    return {
        noun: {
            "verb": fingerprint.verb,
            "part": fingerprint.part,
            "facts": dict(fingerprint.facts),
            "parts": {name: digest(text)[:8] for name, text in fingerprint.parts.items()},
        }
        for noun, fingerprint in told.items()
    }


def _first_other(parts: Mapping[str, str], usual: Mapping[str, str]) -> str | None:
    """Returns the name of the first part that is not the same; None: all are."""
    return next((name for name in {**usual, **parts} if parts.get(name) != usual.get(name)), None)


def _texts(own: Mapping[str, Fingerprint], part_of: Mapping[str, str | None]) -> dict[str, str | None]:
    """Returns noun -> the text of its part of this name, None where this process has none."""
    return {
        noun: None if name is None or noun not in own or name not in own[noun].parts else own[noun].parts[name][:_SENT]
        for noun, name in part_of.items()
    }


def _differing(facts: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Returns a phrase a fact that is not the same."""
    names = [name for name in {**usual, **facts} if _value(facts, name) != _value(usual, name)]
    phrases = [f"{name} is {_value(facts, name)}, not {_value(usual, name)}" for name in names[:_SHOWN]]
    return [*phrases, f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else phrases


def _value(facts: Mapping[str, Any], name: str) -> str:
    return _shown(facts[name]) if name in facts else "absent"


def _shown(value: Any) -> str:
    """Returns a value for a message: a plain word or a version as it is, anything else as Python writes it."""
    text = value if isinstance(value, str) and re.fullmatch(r"\w[\w.+-]*", value) else repr(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def _both(text: str | None, usual: str | None) -> str:
    """Returns both texts of a part, from a little before they part."""
    if text is None or usual is None:
        return "which it lacks" if text is None else "which only it has"
    if text == usual:
        return f"after its first {_SENT:,} characters"
    same = next((i for i, (a, b) in enumerate(zip(text, usual, strict=False)) if a != b), min(len(text), len(usual)))
    start = max(0, same - _WIDTH // 2)
    return ", not ".join(_shown(each[start:].strip()) for each in (text, usual))


def _also(others: Sequence[int]) -> str:
    """Returns which processes differ too, besides the one that the message is about."""
    if not others:
        return ""
    shown = ", ".join(map(str, others[:_SHOWN]))
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f"; so {'do processes' if len(others) > 1 else 'does process'} {shown}{more}"
