"""Answer the training sources of a run by its beam search: python tools/distill.py RUN OUT.jsonl."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from transformer import checks, command
from transformer.errors import UserError
from transformer.paths import check_file, check_folder, write_file

if TYPE_CHECKING:  # these take a second to import, after the flags are known to be good
    from transformer.data.text.config import TextConfig
    from transformer.inference.restored import Restored


@dataclasses.dataclass(frozen=True)
class Command:
    """Write the pairs that a student learns from: training sources, and what an encoder-decoder answers to them.

    This is sequence-level distillation (Kim and Rush 2016). A stop loses no answer: the same command again goes on. The
    student reads them by `python train.py PRESET --data.path OUT --data.fields SOURCE TARGET --data.tfds None`.
    """

    run: tyro.conf.Positional[str]
    """The teacher: a run folder, or one of its checkpoints (RUN/checkpoints/STEP); an imported one too."""
    out: tyro.conf.Positional[str]
    """What is written: a .jsonl file of training pairs; or else a folder of parallel files, a text a line, which has
    the validation pairs too, as they are."""
    path: Annotated[str | None, tyro.conf.arg(aliases=["--data.path"])] = None
    """Pairs whose sources are answered, as --data.path of train.py takes them; None: the run's own data."""
    fields: Annotated[tuple[str, str] | None, tyro.conf.arg(name="data.fields")] = None
    """What --path calls source and target; None: as in training."""
    limit: int | None = None
    """Sources to answer, from the front; None: all."""
    beams: int = 5
    """The beam search's width, as in the paper; 1 is greedy."""
    length_penalty: float = 1.0
    """The beam search's: above 0, longer texts gain."""
    max_new_tokens: int = 128
    """Tokens of an answer, at most."""
    batch_size: int = 64
    """Sources that are read together."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/distill.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "limit", "beams", "max_new_tokens", "batch_size")
    if flags.out.endswith(".jsonl"):
        check_file(flags.out, "OUT")
    else:
        check_new(flags.out)
    command.start_jax()
    from transformer import checkpoint
    from transformer.data.pairs.mixture import open_pairs
    from transformer.inference.restored import restore

    source = checkpoint.find(flags.run)
    data = data_of(source, flags)
    corpora = [corpus for corpus, _ in open_pairs(data)]
    pairs = [pair for corpus in corpora for pair in corpus.pairs("train")][: flags.limit]
    held_out = [pair for corpus in corpora for pair in corpus.pairs("validation")]
    names = corpora[0].fields
    if not flags.out.endswith(".jsonl"):
        check_lines(pairs, held_out, flags.out)
    sources, answers = answered(restore(source), [pair[0] for pair in pairs], flags)
    if flags.out.endswith(".jsonl"):
        lines = (dict(zip(names, pair, strict=True)) for pair in zip(sources, answers.done, strict=True))
        write_file(flags.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    else:
        Path(flags.out).expanduser().mkdir(parents=True, exist_ok=True)
        sides = {"train": (sources, answers.done), "val": tuple(zip(*held_out, strict=True)) or ((), ())}
        for split, texts in sides.items():
            for name, side in zip(names, texts, strict=True):
                write_file(f"{flags.out}/{split}.{name}", "".join(f"{' '.join(text.split())}\n" for text in side))
    answers.remove()
    for text, target, answer in list(zip(sources, (pair[1] for pair in pairs), answers.done, strict=False))[:3]:
        print(f"\nsource  {text}\ntarget  {target}\nanswer  {answer}")
    print(f"\n{len(sources):,} pairs in {flags.out}: --data.path {flags.out} --data.fields {' '.join(names)}")


def answered(restored: "Restored", sources: list[str], flags: Command) -> tuple[list[str], Any]:
    """Returns the sources that the teacher can read, and the `Answers` to them."""
    from transformer.inference.beam_search import BeamSearch
    from transformer.inference.kept_answers import GROUPS, Answers
    from transformer.inference.text_generator import TextGenerator

    generator = TextGenerator(restored)
    if not generator.answers:
        raise UserError(
            f"{restored.checkpoint} is a {restored.architecture.family} model, which answers no sources: give an "
            "encoder-decoder"
        )
    context = restored.architecture.longest_input
    readable = sources
    if context is not None:
        readable = [source for source in sources if len(generator.encode(source)) <= context]
        if len(readable) < len(sources):
            print(f"left out: {len(sources) - len(readable):,} sources longer than the teacher's {context} tokens")
    if not readable:
        raise UserError("there is no source to answer")
    how = BeamSearch(flags.beams, flags.length_penalty)

    def generate(texts: Any) -> list[str]:
        options = {"max_new_tokens": flags.max_new_tokens, "how": how, "batch_size": flags.batch_size}
        return [answer.text for [answer] in generator(texts, num=1, **options)]

    identity = {
        "teacher": str(restored.checkpoint),
        "sources": digest_of(readable),
        "how": [flags.beams, flags.length_penalty, flags.max_new_tokens],
    }
    place = Path(flags.out).expanduser()
    answers = Answers(place.with_name(f".{place.name}.answers"), identity)
    if answers.done:
        print(f"{len(answers.done):,} of {len(readable):,} sources are answered already")
    answers.answer(readable, generate, size=GROUPS * flags.batch_size)
    return readable, answers


def data_of(source: Any, flags: Command) -> "TextConfig":
    """Returns the pairs to answer: those of the run, or others, which are named as flags say."""
    from transformer.data.text.config import TextConfig
    from transformer.training import experiment as experiments

    record = source / "record" / "experiment.json"
    recorded = experiments.read(record).data if record.exists() else TextConfig()
    if not isinstance(recorded, TextConfig) or (flags.path is None and recorded.fields is None):
        raise UserError(f"{source} was not trained on pairs: give --data.path FILE --data.fields SOURCE TARGET")
    if flags.path is None:
        if flags.fields is not None:
            raise UserError("--data.fields is of --data.path, which is not given")
        return recorded
    fields = recorded.fields if flags.fields is None else flags.fields
    return dataclasses.replace(recorded, path=flags.path, tfds=None, mixture=(), header=None, fields=fields)


def check_new(folder: str) -> None:
    """Raises UserError unless a folder can be written that is not there yet, or is empty."""
    place = Path(folder).expanduser()
    if place.is_dir() and any(place.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder, or a .jsonl file")
    if place.is_file():
        raise UserError(f"{folder} is a file: name a .jsonl file, or a folder")
    check_folder(folder)


def check_lines(pairs: Any, held_out: Any, folder: str) -> None:
    """Raises UserError for sources of several lines, which parallel files cannot hold."""
    if any("\n" in side.strip() for pair in (*pairs, *held_out) for side in pair):
        raise UserError(f"{folder}: parallel files hold a text a line, and there are texts of several: name a .jsonl")


def digest_of(texts: list[str]) -> str:
    """Returns a hash of some texts, in order."""
    from transformer.data.splits import digest

    return digest(texts)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
