"""Make what a preset reads before it trains: its tokenizer and token stores, or the listing of its images or sounds:
python tools/prepare.py [PRESET] [--workers N | --beam].

It takes the flags of train.py. With --beam, what follows a bare -- is Beam's own: `... --beam -- --runner=FlinkRunner`.
"""

import sys
import time
from typing import TYPE_CHECKING, Any

from transformer import command
from transformer.errors import UserError

if TYPE_CHECKING:  # each worker process imports this file: the model's libraries would cost it seconds and memory
    from transformer.data.text.build import Built, Maker
    from transformer.data.text.dataset import TextDataset


def main(args: list[str]) -> None:
    """Runs the command line."""
    ours, beam_options = args, None
    if "--" in args:
        cut = args.index("--")
        ours, beam_options = args[:cut], args[cut + 1 :]
    chosen = parse(ours)
    if chosen.workers < 1:
        raise UserError(f"--workers {chosen.workers}: at least one is needed")
    if chosen.beam and chosen.workers > 1:
        raise UserError("--workers makes shards here and --beam elsewhere: give one of them")
    if beam_options and not chosen.beam:
        raise UserError(f"what follows -- is for Beam ({' '.join(beam_options)}): it needs --beam")
    if chosen.experiment.data.kind != "text":
        if chosen.verify or chosen.beam or chosen.workers > 1:
            raise UserError("--workers, --beam and --verify are for text: other data are listed anew each time")
        prepare_files(chosen.experiment)
    elif chosen.verify:
        verify(chosen.experiment, chosen.workers)
    else:
        prepare(chosen.experiment, maker_of(chosen.workers, beam_options or [] if chosen.beam else None))


def parse(args: list[str]) -> Any:
    """Returns the command line, whose flags are an experiment's and a few more."""
    import dataclasses
    from typing import Annotated

    import tyro

    import configs
    from transformer.training.experiment import Experiment

    @dataclasses.dataclass(frozen=True)
    class Command:
        """Make the tokenizer and the token stores of a preset, with any of its fields overridden; of one that reads
        images or recordings, list its files.

        A run of the same preset and fields then begins at once, here and on every machine that shares --data.cache-dir.
        Finished shards are kept when this stops: the same command goes on with the others.
        """

        experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
        """What is to be trained."""
        workers: int = 1
        """Processes on this machine that make shards. The tokens do not depend on it."""
        beam: bool = False
        """Make the shards by Apache Beam, which has its own flags after a bare --; its machines see --data.path and
        --data.cache-dir by the same names."""
        verify: bool = False
        """Make nothing: read the corpus and its stores again, and say what is not as it was recorded."""

    name, flags = configs.split(args)
    base = Command(experiment=configs.get(name or configs.DEFAULT))
    return command.parse(Command, flags, prog="tools/prepare.py [PRESET]", default=base)


def maker_of(workers: int, beam_options: list[str] | None) -> "Maker":
    """Returns who makes the shards."""
    if beam_options is not None:
        from transformer.data.text.build_beam import Beam

        return Beam(beam_options)
    if workers > 1:
        from transformer.data.text.build_workers import Workers

        return Workers(workers)
    from transformer.data.text.build import Here

    return Here()


def prepare(experiment: Any, maker: "Maker") -> "TextDataset":
    """Makes what a run of an experiment reads, and says what there is."""
    from transformer.data.prepare import prepare as prepare_dataset

    def report(built: "Built") -> None:
        meta = built.store.meta
        print(f"{meta.source} ({meta.split}): {meta.documents:,} documents, {meta.tokens:,} tokens, ", end="")
        print(f"{meta.text_bytes:,} bytes of text, in {built.store.folder}", end="")
        rate = built.tokens / built.seconds if built.seconds else 0.0
        print(f": {built.seconds:.1f} s, {rate:,.0f} tokens/s" if rate else " (was there)", flush=True)

    begun = time.perf_counter()
    dataset = prepare_dataset(
        experiment.data,
        experiment.objective.reading(experiment.train.seq_len),
        vocab_size=experiment.model.vocab_size,
        maker=maker,
        report=report,
    )
    for note in dataset.about.notes:
        print(note)
    records = sum(map(len, dataset.train))
    print(f"tokenizer {experiment.data.tokenizer}: {dataset.tokenizer.vocab_size:,} pieces; ", end="")
    print(f"{records:,} training records; {time.perf_counter() - begun:.1f} s in all")
    return dataset


def prepare_files(experiment: Any) -> None:
    """Lists the images or the recordings that a run of an experiment reads, anew, and says what there is."""
    from transformer.data.kinds import list_files, open_dataset

    begun = time.perf_counter()
    if not list_files(experiment.data):
        raise UserError(f"{experiment.name} reads no files that could be listed: nothing is prepared for it")
    dataset = open_dataset(
        experiment.data,
        experiment.objective.reading(experiment.train.seq_len),
        vocab_size=experiment.model.vocab_size,
        input_size=experiment.model.input_size,
    )
    for note in dataset.about.notes:
        print(note)
    print(f"{dataset.about.summary}; listed in {experiment.data.cache_dir}; {time.perf_counter() - begun:.1f} s in all")


def verify(experiment: Any, workers: int) -> None:
    """Reads the corpora again, and their stores; raises UserError that says which files differ from their record."""
    from transformer.data.prepare import open_corpora
    from transformer.data.text.verify import verify as verify_corpora

    config, reading = experiment.data, experiment.objective.reading(experiment.train.seq_len)
    corpora = [corpus.sides for corpus in open_corpora(config, reading)]
    if differences := verify_corpora(corpora, config.cache_dir, maker_of(workers, None).map, print):
        raise UserError(f"not as it was recorded: {'; '.join(differences)}")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
