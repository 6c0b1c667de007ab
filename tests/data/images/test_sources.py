"""Images from every place that they come from: what is read, how it is split, and what is refused."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.images.pictures import class_folders, encoded, picture
from transformer.data.images.config import ImagesConfig
from transformer.data.images.embedded import all_scenes, caption_of, scenes
from transformer.data.images.sources import open_sources
from transformer.errors import UserError


def opened(path, **fields):
    return open_sources(ImagesConfig(path=str(path), **fields))


def contents(source):
    return {(picture.name, picture.label, picture.caption) for picture in (source[i] for i in range(len(source)))}


def test_a_folder_a_class_is_split_by_a_hash_of_its_paths(tmp_path):
    root = class_folders(tmp_path / "a", {"cat": 30, "dog": 10})
    train, validation = opened(root, validation_fraction=0.25)
    assert train.labels == validation.labels == ("cat", "dog")
    assert len(train) + len(validation) == 40
    assert 3 <= len(validation) <= 17
    before = contents(validation)
    (root / "cat" / "new.png").write_bytes(encoded(picture()))
    again = opened(root, validation_fraction=0.25)
    assert before <= contents(again[1])  # what was held out stays
    assert again[0].fingerprint != train.fingerprint
    assert opened(root, validation_fraction=0.25)[0].fingerprint == again[0].fingerprint


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    class_folders(tmp_path / "train", {"cat": 3, "dog": 2})
    class_folders(tmp_path / "val", {"dog": 4}, seed=1)
    train, validation = opened(tmp_path)
    assert (len(train), len(validation)) == (5, 4)
    assert {validation[i].label for i in range(4)} == {1}
    assert open_sources(ImagesConfig(path=str(tmp_path)), whole=True)[0] is None


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"train": {"cat": 2}}, "one class, cat: put images into a folder for each of at least two"),
        ({"train": {}}, "no folders of classes"),
        ({"train": {"cat": 0, "dog": 0}}, "has no images"),
        ({"train": {"a": 2, "b": 2}, "val": {"c": 1}}, "val/c: a class that the training images do not have"),
    ],
)
def test_folders_that_will_not_do_are_refused(folders, words, tmp_path):
    for name, counts in folders.items():
        (tmp_path / name).mkdir()
        class_folders(tmp_path / name, counts)
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_split_to_validate_on_alone_is_refused(name, tmp_path):
    class_folders(tmp_path / "splits" / name, {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=f"has a folder {name} and no folder train: "):
        opened(tmp_path / "splits")
    assert opened(class_folders(tmp_path / "classes", {name: 2, "other": 2}))[0].labels == tuple(
        sorted([name, "other"])
    )


def test_a_folder_named_as_a_picture_is_none_and_a_broken_link_is_named(tmp_path):
    root = class_folders(tmp_path / "a", {"cat": 3, "dog": 3})
    (root / "cat" / "x.jpg").mkdir()
    (root / "cat" / "x.jpg" / "y.png").write_bytes(encoded(picture()))
    assert sum(map(len, opened(root))) == 7
    (root / "dog" / "z.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"dog/z.png: a link to a file that is not there"):
        opened(root)


def test_an_empty_class_is_noted(tmp_path):
    train, _ = opened(class_folders(tmp_path / "a", {"cat": 5, "dog": 0, "fox": 5}))
    assert train.notes == (f"{tmp_path / 'a' / 'dog'} has no images",)


def captions(tmp_path, rows, name="captions.tsv"):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("c.tsv", ["image\tcaption", *(f"{n}.png\tpicture {n}" for n in range(4))]),
        ("c.tsv", [f"{n}.png\tpicture {n}" for n in range(4)]),
        ("c.jsonl", [f'{{"file_name": "{n}.png", "text": "picture {n}"}}' for n in range(4)]),
        ("c.tsv", [f"{n}.png\tpicture {n}\t{200_000 * 'x'}" for n in range(4)]),
    ],
)
def test_captions_are_read(name, rows, tmp_path):
    train, validation = opened(captions(tmp_path, rows, name), validation_fraction=0.3)
    said = sorted([*train.texts(), *validation.texts()])
    assert said == [f"picture {n}" for n in range(4)]
    assert {train[i].caption for i in range(len(train))} == {*train.texts()}


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("c.tsv", ["0.png\tone", "9.png\tnine"], "c.tsv, line 2: .*9.png is no file"),
        ("c.tsv", ["0.png"], "c.tsv, line 1: it has no caption"),
        ("c.tsv", [""], "has no rows"),
        ("c.jsonl", ['{"image": "0.png"}'], "line 1: it has no caption"),
        ("c.jsonl", ["{"], "line 1: not JSON"),
    ],
)
def test_captions_that_will_not_do_are_refused_with_their_line(name, rows, words, tmp_path):
    with pytest.raises(UserError, match=words):
        opened(captions(tmp_path, rows, name))


def write_parquet(path, labels, column="label"):
    images = [{"bytes": encoded(picture(n)), "path": None} for n in range(len(labels))]
    pq.write_table(pa.table({"image": images, column: labels}), path, row_group_size=3)


def test_parquet_is_read_by_row_group(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [0, 1, 10, 2, 1, 0, 2])
    write_parquet(tmp_path / "validation-0.parquet", [2, 10])
    train, validation = opened(tmp_path)
    assert train.labels == ("0", "1", "2", "10")
    assert [train[i].label for i in range(7)] == [0, 1, 3, 2, 1, 0, 2]
    assert [validation[i].label for i in range(2)] == [2, 3]
    for index in (6, 0, 3):
        assert train[index].content == encoded(picture(index))
        assert pickle.loads(pickle.dumps(train))[index].content == train[index].content
    write_parquet(tmp_path / "captions.parquet", ["a", "b", "c"], "caption")
    said = opened(tmp_path / "captions.parquet", validation_fraction=0.4)
    assert sorted([*said[0].texts(), *said[1].texts()]) == ["a", "b", "c"]


def test_parquet_that_will_not_do_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="a.parquet: not a Parquet file"):
        opened(tmp_path / "a.parquet")
    pq.write_table(pa.table({"picture": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="needs the columns image, and label or caption"):
        opened(tmp_path / "a.parquet")


def hub_parquet(path, labels, names):
    """Writes a file as `datasets` does for the Hub: classes are numbers, and the schema has their names."""
    images = [{"bytes": encoded(picture(n)), "path": None} for n in range(len(labels))]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table({"image": images, "label": labels}).replace_schema_metadata(about), path)


def test_the_hubs_names_of_classes_are_taken(tmp_path):
    hub_parquet(tmp_path / "train-0.parquet", [2, 0, 0], ["fox", "ant", "bee"])
    hub_parquet(tmp_path / "test-0.parquet", [1, 0], ["ant", "bee"])  # of another order: names count
    train, validation = opened(tmp_path)
    assert train.labels == validation.labels == ("fox", "ant", "bee")
    assert [train[i].label for i in range(3)] == [2, 0, 0]
    assert [validation[i].label for i in range(2)] == [2, 1]
    hub_parquet(tmp_path / "test-0.parquet", [0, -1], ["ant", "bee"])
    with pytest.raises(UserError, match=r"test-0.parquet, row 1: the class -1 is none of the 2 that the file names"):
        opened(tmp_path)


def test_rows_are_named_as_the_file_numbers_them(tmp_path):
    for number in range(2):
        write_parquet(tmp_path / f"{number}.parquet", ["a", "b", "a", "b"])
    train, validation = opened(tmp_path, validation_fraction=0.3)
    names = {name for name, *_ in contents(train) | contents(validation)}
    assert names == {f"{tmp_path / str(number)}.parquet, row {row}" for number in range(2) for row in range(4)}
    write_parquet(tmp_path / "train-0.parquet", ["a", "b"])
    write_parquet(tmp_path / "validation-0.parquet", ["a", "b"])
    write_parquet(tmp_path / "validation-1.parquet", ["a", "c"])
    with pytest.raises(UserError, match=r"validation-1.parquet, row 1: the class 'c' is none"):
        opened(tmp_path)


@pytest.mark.parametrize("column", ["label", "caption"])
def test_equal_pictures_of_parquet_are_of_one_split(column, tmp_path):
    images = [encoded(picture(n % 6)) for n in range(24)]
    pq.write_table(pa.table({"image": images, column: [f"{n % 4}" for n in range(24)]}), tmp_path / "a.parquet")
    for fraction in (0.01, 0.4, 0.99):  # the first holds out but what it must
        train, validation = opened(tmp_path / "a.parquet", validation_fraction=fraction)
        bytes_of = [{part[i].content for i in range(len(part))} for part in (train, validation)]
        assert bytes_of[0].isdisjoint(bytes_of[1])
        assert len(train) + len(validation) == 24


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("label", [0, 1, 0, None, 1], r"b.parquet, row 3: its label is null"),
        ("label", [[0], [1]], r"b.parquet, row 0: its label is no number or name"),
        ("caption", ["x", None], r"b.parquet, row 1: its caption is null"),
        ("caption", [["x"], ["y", "z"]], r"b.parquet, row 0: its caption is no text"),
    ],
)
def test_a_row_without_a_value_is_refused(column, values, words, tmp_path):
    write_parquet(tmp_path / "a.parquet", [0, 1] if column == "label" else ["x", "y"], column)
    write_parquet(tmp_path / "b.parquet", values, column)
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


@pytest.mark.parametrize("names", [("a.parquet", "b.parquet"), ("train-a.parquet", "test-b.parquet")])
def test_classes_and_captions_do_not_mix(names, tmp_path):
    write_parquet(tmp_path / names[0], [0, 1])
    write_parquet(tmp_path / names[1], ["x", "y"], "caption")
    with pytest.raises(UserError, match=rf"{names[1]}: it has .*caption.*{names[0]} has .*: give files"):
        opened(tmp_path)


def write_shard(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def test_webdataset_shards_are_read_at_random(tmp_path):
    for shard in range(2):
        members = []
        for key in range(3):
            number = 3 * shard + key
            members += [(f"{number:04}.png", encoded(picture(number))), (f"{number:04}.cls", str(number % 2).encode())]
        write_shard(tmp_path / f"{shard}.tar", [("readme.txt", b"hello"), *members])
    train, validation = opened(tmp_path, validation_fraction=0.3)
    found = {each[i].name.split("/")[-1]: each[i] for each in (train, validation) for i in range(len(each))}
    assert len(found) == 6
    five = found["1.tar: 0005.png"]
    assert (five.content, five.label) == (encoded(picture(5)), 1)


def test_pictures_of_shards_are_split_by_their_names(tmp_path):
    def write(names, shard):
        write_shard(tmp_path / shard, [(f"{n}.{e}", c) for n in names for e, c in (("png", b"x"), ("txt", b"it"))])

    def held():
        _, validation = opened(tmp_path, validation_fraction=0.3)
        return {validation[i].name.rpartition(": ")[2] for i in range(len(validation))}

    write(range(40), "a.tar")
    before = held()
    assert 4 <= len(before) <= 20
    write(range(20, 60), "b.tar")
    after = held()
    assert {name for name in after if int(name.removesuffix(".png")) < 40} == before
    train, validation = opened(tmp_path, validation_fraction=0.3)
    names = [{part[i].name.rpartition(": ")[2] for i in range(len(part))} for part in (train, validation)]
    assert names[0].isdisjoint(names[1])  # those of both shards too
    assert len(train) + len(validation) == 80


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", b"x")], "a.tar: a.png: it has neither a class"),
        ([("a.txt", b"x")], "holds no images"),
        ([("a.png", b"x"), ("a.json", b"{")], "its .json is damaged"),
        ([("a.png", b"x"), ("a.json", b'{"label": null}')], "a.tar: a.png: it has neither a class"),
        ([("a.png", b"x"), ("a.json", b'{"label": [1]}')], "a.tar: a.png: it has neither a class"),
        (
            [("a.png", b"x"), ("a.cls", b"1"), ("b.png", b"x"), ("b.txt", b"hi")],
            "a.tar: b.png: some of the images have a class",
        ),
    ],
)
def test_shards_that_will_not_do_are_refused(members, words, tmp_path):
    write_shard(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=words):
        opened(tmp_path / "a.tar")


def write_idx(folder, beginning, images, labels):
    head = lambda array: bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()  # noqa: E731
    for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        (folder / f"{beginning}-{name}.gz").write_bytes(gzip.compress(head(array) + array.tobytes()))


def test_idx_files_are_mnists(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 5, 4)).astype(np.uint8), (np.arange(12) % 3).astype(np.uint8)
    write_idx(tmp_path, "train", images, labels)
    write_idx(tmp_path, "t10k", images[:4], labels[:4])
    train, validation = opened(tmp_path)
    assert (len(train), len(validation), train.labels) == (12, 4, ("0", "1", "2"))
    np.testing.assert_array_equal(train[7].content, images[7])
    assert train[7].label == 1
    broken = tmp_path / "train-images-idx3-ubyte.gz"
    broken.write_bytes(gzip.compress(gzip.decompress(broken.read_bytes())[:-3]))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz: not an idx file"):
        opened(tmp_path)


def test_the_embedded_digits_are_all_there_once():
    train, validation = open_sources(ImagesConfig(validation_fraction=0.2))
    names = [each[i].name for each in (train, validation) for i in range(len(each))]
    assert len(names) == len({*names}) == 1797
    assert {train[i].label for i in range(200)} == {*range(10)}


def test_no_scene_of_validation_is_trained_on():
    train, validation = open_sources(ImagesConfig(embedded="shapes"))
    assert {*map(caption_of, scenes("train"))}.isdisjoint(map(caption_of, scenes("validation")))
    assert len(scenes("train")) + len(scenes("validation")) == len(all_scenes()) == 264
    assert {*validation.texts()} == {*map(caption_of, scenes("validation"))}
    assert train[3].caption == train.texts()[3]
    np.testing.assert_array_equal(train[3].content, open_sources(ImagesConfig(embedded="shapes"))[0][3].content)
    assert (train[3].content != train[3 + len(scenes("train"))].content).any()  # one scene, drawn anew


@pytest.mark.parametrize("name", ["nothing", "a.txt"])
def test_a_path_that_will_not_do_is_refused(name, tmp_path):
    (tmp_path / "a.txt").write_text("hi")
    with pytest.raises(UserError, match=name):
        opened(tmp_path / name)
