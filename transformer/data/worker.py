"""A worker process of `transformer.data.workers`: python -m transformer.data.worker START WORKERS NUMBER.

Standard input is a file with the pickled dataset, standard output is the pipe for its batches.
"""

import os
import pickle
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformer.errors import UserError

if TYPE_CHECKING:
    from transformer.data.workers import Item


def main(start: int, workers: int, number: int) -> None:
    """Writes batches start + number, start + number + workers, ... and then the end, or the error that came before."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an example prints must not come between the batches
    try:
        for item in _items(start, workers, number):
            pickle.dump(item, pipe, protocol=5)
            pipe.flush()
    except BrokenPipeError:  # nobody reads any more
        pass
    os._exit(0)  # no more to clean up, and the pipe may be broken


def _items(start: int, workers: int, number: int) -> "Iterator[Item]":
    try:
        dataset: Any = pickle.loads(os.pread(0, os.fstat(0).st_size, 0))
        for batch in range(start + number, len(dataset), workers):
            yield "batch", dataset[batch]
    except Exception as error:
        yield "error", _portable(error)
    else:
        yield "end", None


def _portable(error: Exception) -> Exception:
    """Returns the error with where it arose as a note; where it cannot be pickled, its words."""
    if not isinstance(error, UserError):
        error.add_note("In a data worker:\n" + "".join(traceback.format_tb(error.__traceback__)))
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(repr(error))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
