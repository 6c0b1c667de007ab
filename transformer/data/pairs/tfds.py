"""TFDS datasets as pairs, such as those of translations."""

from collections.abc import Iterator

from transformer.data.pairs.pairs import PairSource, check_fields
from transformer.data.text.config import TextConfig
from transformer.data.text.readable import Part, Split
from transformer.data.text.tfds_source import TfdsDataset, TfdsReadable


class TfdsPairs(TfdsReadable, PairSource):
    """Two text features of a TFDS dataset, such as the languages of a translation."""

    def __init__(self, dataset: str, config: TextConfig):
        super().__init__(config.cache_dir)
        self._dataset = TfdsDataset(dataset, config, check_fields(config), "--data.fields")
        self.name, self.fields = self._dataset.name, check_fields(config)

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        for source, target in self._dataset.texts(part, split, self.facts):
            if source.strip() and target.strip():
                yield source, target
