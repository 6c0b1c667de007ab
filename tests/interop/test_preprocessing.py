"""preprocessor_config.json, both ways: Transformers' processors on a photograph, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.tiny_models import TINY
from tools import convert as tool
from transformer import checkpoint
from transformer.data.images.preprocessing import PREPROCESSING, Preprocessing, from_json
from transformer.errors import UserError
from transformer.interop import families, preprocessing

from . import parity

SQUARE = {"height": 24, "width": 24}
SETTINGS = {
    "ViTImageProcessor": {"size": SQUARE},
    "BitImageProcessor": {"size": {"shortest_edge": 30}, "crop_size": SQUARE, "image_mean": [0.4] * 3},
    "CLIPImageProcessor": {"size": {"shortest_edge": 24}, "crop_size": SQUARE},
    "DeiTImageProcessor": {"size": {"height": 30, "width": 30}, "crop_size": SQUARE},
    "SiglipImageProcessor": {"size": SQUARE, "resample": 2},
}
CLIP_OF_2021 = {
    "crop_size": 24, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 24,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
"""As the first CLIPs on the hub have it."""


@pytest.fixture(scope="module")
def photograph():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg")).resize((75, 41))


def theirs(cls, **settings):
    return getattr(transformers, f"{cls}Pil")(**settings)


def pixels(processor, picture):
    return processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("cls", SETTINGS)
def test_a_folders_processor_is_read(cls, photograph, tmp_path):
    processor = theirs(cls, **SETTINGS[cls])
    processor.save_pretrained(tmp_path)
    cut = preprocessing.read(files(tmp_path), 3)
    assert cut is not None
    np.testing.assert_allclose(cut(photograph), pixels(processor, photograph), rtol=0, atol=2e-6)


def test_the_first_deits_are_read_and_written_back(photograph):
    config = CLIP_OF_2021 | {"feature_extractor_type": "DeiTFeatureExtractor", "size": 30}
    cut = preprocessing.read({preprocessing.FILE: json.dumps(config).encode()}, 3)
    assert cut is not None
    settings = {"image_mean": config["image_mean"], "image_std": config["image_std"]}
    processor = theirs("DeiTImageProcessor", **SETTINGS["DeiTImageProcessor"], **settings)
    np.testing.assert_allclose(cut(photograph), pixels(processor, photograph), rtol=0, atol=2e-6)
    assert preprocessing.read({preprocessing.FILE: preprocessing.write(cut, "vit")}, 3) == cut


def test_the_first_clips_are_read(photograph):
    cut = preprocessing.read({preprocessing.FILE: json.dumps(CLIP_OF_2021).encode()}, 3)
    assert cut is not None
    processor = theirs("CLIPImageProcessor", **SETTINGS["CLIPImageProcessor"])
    np.testing.assert_allclose(cut(photograph), pixels(processor, photograph), rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip", "siglip"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_transformers_reads_what_is_written(family, resize, photograph, tmp_path):
    cut = Preprocessing(24, resize=resize, edge=30 if resize == "crop" else None, resample="bilinear", mean=(0.3,))
    (tmp_path / preprocessing.FILE).write_bytes(preprocessing.write(cut, family))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    np.testing.assert_allclose(pixels(processor, photograph), cut(photograph), rtol=0, atol=2e-6)
    again = preprocessing.read(files(tmp_path), 3)
    assert again is not None
    np.testing.assert_array_equal(again(photograph), cut(photograph))


@pytest.fixture(params=["clip", "siglip"])
def folder(request, tmp_path):
    """A model that Transformers saved with its processor of images, in the file of its kind of processors."""
    config = TINY[request.param]
    config = dataclasses.replace(config, end_id=None) if request.param == "clip" else config
    family = families.of_architecture(config)
    parity.make_pair(family, config).theirs.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf", {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}[request.param]


@pytest.mark.parametrize("whole", [False, True], ids=["preprocessor_config", "processor_config"])
def test_models_of_images_and_texts_keep_it(folder, whole, photograph, tmp_path, capsys):
    path, cls = folder
    processor = theirs(cls, **SETTINGS[cls])
    processor.save_pretrained(path)
    if whole:
        settings = json.loads((path / preprocessing.FILE).read_bytes())
        (path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
        (path / preprocessing.FILE).write_text("{}")  # which comes second
    tool.main(["import", str(path), str(tmp_path / "run")])
    assert "images      Preprocessing(size=24" in capsys.readouterr().out
    record = checkpoint.find(tmp_path / "run") / "record"
    cut, labels = from_json((record / PREPROCESSING).read_text())
    np.testing.assert_allclose(cut(photograph), pixels(processor, photograph), rtol=0, atol=2e-6)
    assert not labels
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    names = ["processor_config.json"] if whole else [preprocessing.FILE]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (path / name).read_bytes()


def test_a_folder_without_one_says_so(folder, tmp_path, capsys):
    tool.main(["import", str(folder[0]), str(tmp_path / "run")])
    assert "images      the folder has no preprocessor_config.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "preprocessor_config.json: not JSON"),
        (b"[1]", "preprocessor_config.json: not a JSON object"),
        (json.dumps(CLIP_OF_2021 | {"feature_extractor_type": "Donut"}).encode(), "'Donut' is not supported"),
        (json.dumps(CLIP_OF_2021 | {"do_pad": True}).encode(), "do_pad = True is not supported"),
        (json.dumps(CLIP_OF_2021 | {"do_normalize": False}).encode(), "do_normalize = False is not supported"),
        (json.dumps(CLIP_OF_2021 | {"size": {"height": 3, "width": 3}}).encode(), "only shortest_edge"),
    ],
)
def test_what_would_change_numbers_is_refused(content, words):
    with pytest.raises(UserError, match=words):
        preprocessing.read({preprocessing.FILE: content}, 3)
