"""Reading a corpus and its stores again, whatever the sizes and times of their files say."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from transformer.data.config import DataConfig
from transformer.data.prepare import open_corpora
from transformer.data.receipts import Mapper
from transformer.data.records import Reading
from transformer.data.store import MANIFEST, damaged_shards
from transformer.data.text.sources import Source
from transformer.errors import UserError


def verify(config: DataConfig, reading: Reading, mapper: Mapper, report: Callable[[str], None]) -> list[str]:
    """Reads the corpora that `config` names and all stores that were made of them; returns what differs, a line each.

    Changed files are forgotten by the receipt: the next start reads them again and builds their stores anew.

    Raises:
      UserError: nothing was ever prepared from them.
    """
    differences = []
    for sources, _ in open_corpora(config, reading):
        stores = [folder for source in sources for folder in _stores(source, config)]
        changed = sources[0].verify(mapper)
        report(f"{sources[0].name}: {'as recorded' if not changed else f'{len(changed)} file(s) differ'}")
        differences += [f"{file} has another content: prepare it again" for file in changed]
        for folder in stores:
            damaged = damaged_shards(folder)
            report(f"{folder}: {'whole' if not damaged else f'{len(damaged)} shard(s) are damaged'}")
            differences += [f"{path} is damaged: delete {folder}, and prepare again" for path in damaged]
    return differences


def _stores(source: Source, config: DataConfig) -> Iterator[Path]:
    """The folders of the stores that were made of what the receipt recorded."""
    if not source.recall():
        raise UserError(f"{source.name} was not prepared in {config.cache_dir}: run this without --verify first.")
    for manifest in sorted((Path(config.cache_dir).expanduser() / "stores").glob(f"[!.]*/{MANIFEST}")):
        try:
            corpus = json.loads(manifest.read_text())["corpus"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another version, or none
        if corpus == source.fingerprint:
            yield manifest.parent
