"""What a start costs does not grow with the documents: on a store whose tokens are holes in a sparse file."""

import pickle
import tracemalloc

import numpy as np
import pytest

from tools.bench_data import make_store
from transformer.data.pairs.rows import PairReading, PairRows
from transformer.data.pipeline import iterate, train_batches
from transformer.data.prepare import cut
from transformer.data.text import document_parts, packing, sidecar
from transformer.data.text.document_parts import DocumentParts
from transformer.data.text.records import TextReading
from transformer.data.text.store import TokenStore
from transformer.errors import UserError

DOCUMENTS = 2_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    make_store(root, DOCUMENTS, 10**9)
    return root


def first_batch(folder, reading, step):
    """The most memory that a start takes, in bytes, and the number of records."""
    tracemalloc.start()
    records = cut(TokenStore.open(folder), reading=reading, drop_remainder=True)
    data = train_batches([records], [1.0], example=lambda record, _: record, batch_size=8, seed=0)
    with iterate(data, step) as batches:
        assert next(batches)["tokens"].shape == (8, reading.length)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, len(records)


@pytest.mark.parametrize(
    "reading",
    [
        TextReading("windows", 128, overlap=1),
        TextReading("text", 128),
        TextReading("documents", 128, others=True),
        PairReading(2000, target_length=2000),
    ],
    ids=["windows", "text", "documents", "pairs"],
)
def test_a_start_takes_no_memory_for_documents(folder, reading, monkeypatch, tmp_path_factory):
    if isinstance(reading, PairReading):  # packing takes a while, and its memory does not depend on how many there are
        folder = tmp_path_factory.mktemp("pairs")
        make_store(folder, 8_000, 4 * 10**6)
        stores = [TokenStore.open(folder)] * 2
        tracemalloc.start()
        monkeypatch.setattr(packing, "_BLOCK", 1024)
        monkeypatch.setattr(sidecar, "_CHUNK", 1024)
        rows = PairRows(*stores, reading=reading)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(rows) > 2000
    elif reading.kind == "documents":
        first_batch(folder, reading, 0)  # makes the sidecar
        monkeypatch.setattr(document_parts.DocumentParts, "_write", lambda *_: pytest.fail("indexed again"))
        peak, records = first_batch(folder, reading, 10**6)
        assert records > DOCUMENTS
        assert sum(path.stat().st_size for path in (folder / "index").rglob("*.int64")) < DOCUMENTS / 50
    else:
        peak, records = first_batch(folder, reading, 10**6)
        assert records > DOCUMENTS
    assert peak < 1_500_000 < 8 * DOCUMENTS


def test_the_index_of_a_store_that_cannot_be_written_is_made_elsewhere(folder, monkeypatch):
    expected = DocumentParts(TokenStore.open(folder), 128, others=True)

    def refuse(*_):
        raise UserError("Cannot write to it")

    monkeypatch.setattr(sidecar, "build_folder", refuse)
    monkeypatch.setattr(sidecar, "is_whole", lambda place: False)
    parts = DocumentParts(TokenStore.open(folder), 128, others=True)
    assert not parts._index._folder.is_relative_to(folder)
    assert len(parts) == len(expected)
    again = pickle.loads(pickle.dumps(parts))
    for index in (0, 12345, len(parts) - 1):
        assert again._document(index) == expected._document(index)


def test_a_corpus_of_more_records_than_32_bits_is_shuffled():
    """Grain's shuffle is a permutation beyond 2^32: 7.8e9 windows of 128 tokens of 1e12."""

    class Numbers:
        tokens = text_bytes = 0

        def __len__(self):
            return 7_812_500_000

        def draw(self, index, rng):
            return {"index": np.int64(index)}

    data = train_batches([Numbers()], [1.0], example=lambda record, _: record, batch_size=500, seed=3)
    size = len(Numbers())
    steps = [*range(10), *(2**32 // 500 + i for i in range(10)), *(size // 500 - 1 - i for i in range(10))]
    found = np.concatenate([data[step]["index"] for step in steps])
    assert len(np.unique(found)) == len(found)
    assert 0 <= found.min() < size / 1000
    assert size * 0.999 < found.max() < size
    np.testing.assert_allclose(np.histogram(found, 5, (0, size))[0] / len(found), 0.2, atol=0.01)
    assert abs(np.mean(found % 2) - 0.5) < 0.01
