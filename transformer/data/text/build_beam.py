"""Shards made by Apache Beam: on its runners' machines, which see the corpus and the cache by the same names."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

from transformer.atomic import full_disk_named
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.build import TOKENIZER, Job
from transformer.errors import UserError
from transformer.tokenizers.kinds import load_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer

_ERROR = ".error"


class Beam:
    """Makes shards in one Beam pipeline.

    Args:
      options: Beam's own flags, such as --runner=FlinkRunner.
    """

    def __init__(self, options: Sequence[str]):
        self._options = list(options)
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise UserError("--beam needs Apache Beam: pip install 'transformer-train[beam]'") from error
        self._beam, self._make_options = beam, PipelineOptions

    def map(self, scan: Scan, units: Iterable[Unit]) -> Iterator[Facts]:
        """As the built-in `map`: reading is a small part of the work, and is done here."""
        return map(scan, units)

    def make(self, job: Job, numbers: Sequence[int], advance: Callable[[int], object]) -> None:
        beam = self._beam
        job.tokenizer.save(job.folder / TOKENIZER)
        options = self._make_options(self._options)
        try:
            whole = beam.Pipeline(options=options)
        except ValueError as error:
            raise UserError(f"--beam: {str(error).splitlines()[0]}") from None
        with whole as pipeline:
            _ = (
                pipeline
                | "Parts" >> beam.Create(list(numbers))
                | "Spread" >> beam.Reshuffle()
                | "Tokenise" >> beam.Map(make_one, job._replace(tokenizer=None))
            )
        if failed := sorted(job.folder.glob(f"*{_ERROR}")):
            raise UserError(failed[0].read_text())
        shutil.rmtree(job.folder / TOKENIZER)


def make_one(number: int, job: Job) -> None:
    """Makes a shard on whatever machine; what is a person's to mend is left in the folder, not raised and retried."""
    try:
        with full_disk_named(job.folder):
            job._replace(tokenizer=_load(str(job.folder / TOKENIZER))).make(number)
    except UserError as error:
        (job.folder / f"{number:05}{_ERROR}").write_text(str(error))


_loaded: dict[str, Tokenizer] = {}


def _load(folder: str) -> Tokenizer:
    if folder not in _loaded:
        _loaded[folder] = load_tokenizer(folder)
    return _loaded[folder]
