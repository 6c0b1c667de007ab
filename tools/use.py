"""Use a model for a task: python tools/use.py TASK MODEL [INPUT...] [--file FILE]; answers are lines of JSON."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any, Literal

import tyro

from transformer import checks, command
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """Answer inputs by `transformer.pipeline`, each with a line of JSON, as they are read.

    python tools/use.py sentiment-analysis RUN "It works." "It does not." --option top_k=2
    python tools/use.py question-answering HF_FOLDER '{"question": "Who?", "context": "It was me."}'
    """

    task: tyro.conf.Positional[str]
    """Name of the task, such as text-classification; `auto`: what the model's head is for."""
    model: tyro.conf.Positional[str]
    """A run, one of its checkpoints, or a folder in the Hugging Face format."""
    inputs: tyro.conf.Positional[tuple[str, ...]] = ()
    """What is answered: texts, files of pictures or sound; JSON where one begins with { or [."""
    file: str | None = None
    """A file of inputs, a line each: JSON in a .jsonl, else text; `-`: standard input."""
    option: tuple[str, ...] = ()
    """Options of the task, NAME=VALUE; a value is JSON where it can be, else a string."""
    batch_size: int = 32
    """Inputs that the model reads together."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/use.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "batch_size")
    if bool(flags.inputs) == (flags.file is not None):
        raise UserError("give inputs, or --file with a line for each" + (", not both" if flags.inputs else ""))
    options = dict(_option(told) for told in flags.option)
    inputs = iter([_input(given) for given in flags.inputs]) if flags.file is None else _lines(flags.file)
    command.start_jax()
    from transformer.tasks.pipeline import pipeline

    task = None if flags.task == "auto" else flags.task
    answer = pipeline(task, model=flags.model, batch_size=flags.batch_size, dtype=flags.dtype)
    for told in answer(inputs, **options):
        print(json.dumps(told, ensure_ascii=False, default=lambda array: array.tolist()))


def _option(told: str) -> tuple[str, Any]:
    name, equals, value = told.partition("=")
    if not equals:
        raise UserError(f"--option {told}: give NAME=VALUE, such as top_k=3")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _input(given: str) -> Any:
    if not given.startswith(("{", "[")):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return given  # a text may begin so


def _lines(name: str) -> Iterator[Any]:
    """Yields the inputs of a file; raises UserError at once where there is none."""
    from transformer.paths import expanded

    path = None if name == "-" else expanded(name)
    if path is not None and not path.is_file():
        raise UserError(f"--file {name}: no such file")

    def read() -> Iterator[Any]:
        with sys.stdin if path is None else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                text = line.rstrip("\r\n")
                if path is None or path.suffix != ".jsonl":
                    yield _input(text) if path is None else text
                    continue
                try:
                    yield json.loads(text)
                except ValueError as error:
                    raise UserError(f"--file {name}: line {number} is not JSON ({error})") from None

    return read()


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
