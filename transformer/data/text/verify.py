"""Reading a corpus and its stores again, whatever the sizes and times of their files say."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from transformer.data.receipts import Mapper
from transformer.data.text.sources import Source
from transformer.data.text.store import MANIFEST, damaged_shards
from transformer.errors import UserError


def verify(
    corpora: Iterable[Sequence[Source]], cache_dir: str, mapper: Mapper, report: Callable[[str], None]
) -> list[str]:
    """Reads corpora and all stores that were made of them; returns what differs, a line each.

    Changed files are forgotten by the receipt: the next start reads them again and builds their stores anew.

    Args:
      corpora: each a source, or both sides of its pairs.
      cache_dir: the folder of their stores.
      mapper: reads their files.
      report: gets a line for each corpus and store.

    Raises:
      UserError: nothing was ever prepared from them.
    """
    differences = []
    for sources in corpora:
        stores = [folder for source in sources for folder in _stores(source, cache_dir)]
        changed = sources[0].verify(mapper)
        report(f"{sources[0].name}: {'as recorded' if not changed else f'{len(changed)} file(s) differ'}")
        differences += [f"{file} has another content: prepare it again" for file in changed]
        for folder in stores:
            damaged = damaged_shards(folder)
            report(f"{folder}: {'whole' if not damaged else f'{len(damaged)} shard(s) are damaged'}")
            differences += [f"{path} is damaged: delete {folder}, and prepare again" for path in damaged]
    return differences


def _stores(source: Source, cache_dir: str) -> Iterator[Path]:
    """Yields the folders of the stores that were made of what the receipt recorded."""
    if not source.recall():
        raise UserError(f"{source.name} was not prepared in {cache_dir}: run this without --verify first.")
    for manifest in sorted((Path(cache_dir).expanduser() / "stores").glob(f"[!.]*/{MANIFEST}")):
        try:
            corpus = json.loads(manifest.read_text())["corpus"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another version, or none
        if corpus == source.fingerprint:
            yield manifest.parent
