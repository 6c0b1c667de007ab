"""Records of images: pure in (source, seed, index), cut to size, varied in training alone, damaged ones left out."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.images.pictures import class_folders, encoded, picture
from transformer.checks import FieldError
from transformer.data import pipeline
from transformer.data.images.augmentation import Augmentation, crop_box, randaugment, shifted
from transformer.data.images.config import ImagesConfig
from transformer.data.images.dataset import CaptionDataset, ImageDataset
from transformer.data.images.decoding import from_array
from transformer.data.images.preprocessing import Preprocessing
from transformer.data.images.records import ImageReading
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.objectives.image_classification import ImageClassification
from transformer.objectives.objective import ExampleMaker

ALL = {
    "crop": (0.3, 1.0), "flip": 0.5, "shift": 1, "randaugment": 2, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip


def classes(root, **fields) -> ImageDataset:
    found = open_dataset(ImagesConfig(path=str(root), **fields), ImageReading(), vocab_size=None, input_size=(8, 8, 3))
    assert isinstance(found, ImageDataset)
    return found


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "images", {"cat": 12, "dog": 12})


def batch(dataset, step, **options):
    maker = ExampleMaker(ImageClassification(), len(dataset.labels))
    train = pipeline.train_batches(dataset.train, dataset.weights, example=maker, batch_size=4, seed=3, **options)
    return train[step]


def test_a_batch_depends_on_its_step_alone(root):
    first, again = batch(classes(root, **ALL), 5), batch(classes(root, **ALL), 5)
    for name in ("targets", "weights"):
        np.testing.assert_array_equal(first[name], again[name])
    np.testing.assert_array_equal(first["inputs"]["images"], again["inputs"]["images"])
    part = batch(classes(root, **ALL), 5, rows=[1, 3])  # as another host makes it
    np.testing.assert_array_equal(part["inputs"]["images"], first["inputs"]["images"][[1, 3]])
    assert (batch(classes(root, **ALL), 6)["inputs"]["images"] != first["inputs"]["images"]).any()
    np.testing.assert_allclose(first["targets"].sum(axis=1), 1, rtol=1e-6)
    assert (first["targets"].max(axis=1) < 1).any()


def test_validation_is_not_varied(root):
    plain, varied = classes(root), classes(root, **ALL)
    for index in range(len(plain.validation)):
        record = varied.validation.draw(index, np.random.default_rng(index))
        np.testing.assert_array_equal(record["image"], plain.validation[index]["image"])
        assert record["share"] == 1


def test_the_embedded_digits_are_pinned():
    found = open_dataset(ImagesConfig(), ImageReading(), vocab_size=None, input_size=(8, 8, 1))
    records = [found.train[0].draw(7, np.random.default_rng(0)), found.validation[3]]
    hashed = [hashlib.sha256(record["image"].tobytes()).hexdigest()[:12] for record in records]
    assert [int(record["label"]) for record in records] == [8, 9]
    assert hashed == ["b0c766e2072b", "262929abd178"]
    assert found.validation[3]["image"].min() == -1


def damage(root):
    for path in sorted((root / "cat").glob("*.png"))[:6]:
        path.write_bytes(path.read_bytes()[:-60])


def test_a_damaged_picture_stops_or_is_left_out_where_that_is_asked(root, tmp_path, capfd):
    damage(root)
    stopped = classes(root)
    with pytest.raises(UserError, match=r"cat/\d+.png: the picture is damaged .* --data.skip-damaged True leaves such"):
        [stopped.train[0][index] for index in range(len(stopped.train[0]))]
    dataset = classes(root, skip_damaged=True, cache_dir=str(tmp_path / "cache"))
    there = [float(dataset.train[0][index]["there"]) for index in range(len(dataset.train[0]))] * 2
    assert 0 < there.count(0.0) <= 12
    said = capfd.readouterr().err
    assert said.count("left out (") == there.count(0.0) / 2  # each once
    [listed] = (tmp_path / "cache" / "left-out").iterdir()
    assert f"left out (1 so far, listed in {listed}): " in said
    assert len(listed.read_text().splitlines()) == there.count(0.0) / 2
    lost = dataset.train[0][there.index(0.0)]
    example = ImageClassification().example(lost, np.random.default_rng(0), 2)
    assert (example["weights"], np.abs(example["inputs"]["images"]).max()) == (0, 0)


def test_workers_name_a_damaged_picture_once_for_all(root, tmp_path, capfd):
    damage(root)
    dataset = classes(root, skip_damaged=True, cache_dir=str(tmp_path / "cache"))
    maker = ExampleMaker(ImageClassification(), len(dataset.labels))
    batches = pipeline.train_batches(dataset.train, dataset.weights, example=maker, batch_size=12, seed=3)
    iterator = pipeline.iterate(batches, 0, workers=2)
    for _ in range(8):
        next(iterator)
    iterator.close()
    [listed] = (tmp_path / "cache" / "left-out").iterdir()
    names = listed.read_text().splitlines()
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out (")]
    assert len(names) == len({*names}) == len(said) > 1
    assert f"({len(said)} so far, " in said[-1]
    again = classes(root, skip_damaged=True, cache_dir=str(tmp_path / "cache"))
    assert again.about.notes[-1].startswith(f"{len(names)} sample(s) could not be read before")


def test_captions_are_tokens_between_their_ends(tmp_path):
    found = open_dataset(
        ImagesConfig(embedded="shapes"), ImageReading(captions=True, length=60), vocab_size=384, input_size=(32, 32, 3)
    )
    assert isinstance(found, CaptionDataset)
    record = found.train[0][5]
    real = record["tokens"][record["segment_ids"] > 0].tolist()
    assert (real[0], real[-1]) == (found.tokenizer.bos_id, found.tokenizer.eos_id)
    assert found.tokenizer.decode(real) in found.train[0]._source.texts()
    assert not found.about.notes
    cut = open_dataset(
        ImagesConfig(embedded="shapes"), ImageReading(captions=True, length=9), vocab_size=384, input_size=(32, 32, 3)
    )
    assert cut.about.notes[-1].startswith("100 of 100 captions looked at are longer than the 9 tokens of")
    short = cut.train[0][5]
    assert short["segment_ids"].all()
    assert short["tokens"][-1] == found.tokenizer.eos_id


@pytest.mark.parametrize(
    ("fields", "size", "words"),
    [
        ({"mean": (0.1, 0.2)}, (8, 8, 3), "--data.mean has 2 numbers, and an image 3 channels"),
        ({}, (), "the model reads none"),
        ({}, (8, 8, 2), r"--model.channels 2: images are read in grey \(1\) or in colours \(3\)"),
        ({"embedded": "shapes"}, (8, 8, 3), "captions and no classes"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(fields, size, words):
    with pytest.raises(UserError, match=words):
        open_dataset(ImagesConfig(**fields), ImageReading(), vocab_size=None, input_size=size)


@pytest.mark.parametrize(
    "fields",
    [
        {"crop": (0.5, 0.2)}, {"crop": (0.0, 1.0)}, {"flip": 1.5}, {"std": (0.0,)}, {"randaugment_magnitude": 31},
        {"mixup": -1.0}, {"shift": -1}, {"validation_fraction": 1.0}, {"mean": ()},
    ],
)  # fmt: skip
def test_fields_out_of_range_are_refused_by_name(fields):
    with pytest.raises(FieldError, match=next(iter(fields))):
        ImagesConfig(**fields)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_crop_lies_in_its_image(width, height, least, seed):
    left, top, right, bottom = crop_box(width, height, (least, 1.0), np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(st.integers(0, 30), st.integers(0, 2**32), st.sampled_from(["L", "RGB"]))
@settings(deadline=None)
def test_randaugment_keeps_size_and_mode(magnitude, seed, mode):
    image = picture(mode=mode)
    have = randaugment(image, magnitude, np.random.default_rng(seed))
    assert (have.size, have.mode) == (image.size, image.mode)


@given(st.integers(0, 5), st.integers(0, 2**32))
def test_a_shift_moves_pixels_and_repeats_the_edge(most, seed):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    moved = shifted(pixels, most, np.random.default_rng(seed))
    assert {*moved.ravel().tolist()} <= {*pixels.ravel().tolist()}
    down, right = np.random.default_rng(seed).integers(-most, most + 1, 2)
    row, column = min(max(2 - down, 0), 3), min(max(3 - right, 0), 5)
    assert moved[2, 3, 0] == pixels[row, column, 0]


@given(st.floats(0.05, 5), st.integers(0, 2**32), st.booleans())
def test_the_share_of_a_mixture_is_what_is_seen_of_it(alpha, seed, cuts):
    config = ImagesConfig(**{"cutmix" if cuts else "mixup": alpha})
    mix = Augmentation(config, Preprocessing(8)).mixed
    ones, zeros = np.ones((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32)
    image, share = mix(ones, zeros, np.random.default_rng(seed))
    assert 0 <= share <= 1
    assert image.mean() == pytest.approx(share, abs=1e-6)
    assert not cuts or {*image.ravel().tolist()} <= {0.0, 1.0}


def test_a_picture_of_any_format_is_read(root):
    (root / "cat" / "a.jpg").write_bytes(encoded(picture(size=(30, 20)), "JPEG"))
    (root / "cat" / "b.gif").write_bytes(encoded(picture(size=(5, 50)).quantize(9), "GIF"))
    (root / "cat" / "c.tif").write_bytes(encoded(picture(mode="CMYK"), "TIFF"))
    dataset = classes(root)
    images = [part[i]["image"] for part in (dataset.train[0], dataset.validation) for i in range(len(part))]
    assert {image.shape for image in images} == {(8, 8, 3)}
    assert len(images) == 27


@pytest.mark.parametrize("fields", [{}, {"shift": 2}, {"flip": 0.5}, {"shift": 1, "flip": 0.5}])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_the_models_size_are_what_pillow_would_make_of_them(channels, fields):
    preprocessing = Preprocessing(8, channels, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.4)[:channels])
    augmentation = Augmentation(ImagesConfig(**fields), preprocessing)
    for seed in range(8):
        array = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), np.uint8)
        assert preprocessing.keeps(array)
        assert augmentation.moves_alone
        image = from_array(array, "it", channels)
        np.testing.assert_array_equal(preprocessing.cut(image), array)
        moved, want = augmentation.moved(array, rng := np.random.default_rng(seed)), np.random.default_rng(seed)
        np.testing.assert_array_equal(moved, augmentation(image, want))
        assert rng.random() == want.random()  # both drew as much


@pytest.mark.parametrize(
    ("array", "edge"),
    [(np.zeros((8, 9), np.uint8), None), (np.zeros((8, 8, 3), np.uint8), None), (np.zeros((8, 8), np.uint16), None),
     (np.zeros((8, 8), np.uint8), 10)],
)  # fmt: skip
def test_other_arrays_go_through_pillow(array, edge):
    assert not Preprocessing(8, 1, edge=edge).keeps(array)
