"""tools/classify.py: classes of pictures by a run, or labels; where a model looks, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import configs
from tests.data.images.pictures import encoded, picture
from tests.tool_calls import caller, refuser
from tools import classify, evaluate
from transformer import command
from transformer.data.images.config import ImagesConfig
from transformer.inference.image_classifier import ImageClassifier, rollout
from transformer.inference.pictures import preprocessing_of
from transformer.inference.restored import restore
from transformer.inference.zero_shot import TwoTowersReader
from transformer.parallel.mesh import MeshConfig
from transformer.training import loop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small ViT with a class token, after a few updates on digits."""
    experiment = configs.get("vit-digits")
    model = dataclasses.replace(
        experiment.model, width=16, num_layers=2, num_heads=2, mlp_width=16, class_token=True, pooling="class_token"
    )
    train = dataclasses.replace(experiment.train, steps=12, batch_size=16, eval_batches=1)
    folder = tmp_path_factory.mktemp("run") / "run"
    data = ImagesConfig(mixup=0.2, shift=1)
    experiment = dataclasses.replace(experiment, model=model, train=train, data=data, mesh=MeshConfig(data=1))
    loop.train(experiment, folder, report=lambda line: None)
    return folder


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(picture(number, (12, 9))))
    return paths


def test_batches_do_not_change_the_guesses(trained, files):
    classifier = ImageClassifier(restore(trained))
    pictures = [Image.open(path).convert("L") for path in files]
    together, apart = classifier(pictures, top=3), classifier(pictures, top=3, batch_size=2)
    for one, other in zip(together, apart, strict=True):
        assert [guess.label for guess in one] == [guess.label for guess in other]
        np.testing.assert_allclose([g.probability for g in one], [g.probability for g in other], rtol=1e-5)
        assert [guess.probability for guess in one] == sorted((guess.probability for guess in one), reverse=True)
    [every] = classifier(pictures[:1], top=99)
    assert sorted(guess.label for guess in every) == [*map(str, range(10))]
    assert sum(guess.probability for guess in every) == pytest.approx(1, abs=1e-5)


def test_maps_are_of_patches_alone(trained, files):
    whole, heads = ImageClassifier(restore(trained)).attention(Image.open(files[0]).convert("L"))
    assert whole.shape == (4, 4)
    assert heads.shape == (2, 2, 4, 4)
    assert ((heads > 0) & (heads < 1)).all()
    assert (heads.sum(axis=(-1, -2)) < 1).all()  # the class token's own share is not shown


def test_rollout_multiplies_layers():
    attention = jax.nn.softmax(np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32))
    first, second = np.asarray(attention).mean(axis=1) / 2 + np.eye(5) / 2
    np.testing.assert_allclose(rollout(np.asarray(attention)), second @ first, rtol=1e-5)
    np.testing.assert_allclose(rollout(np.asarray(attention)).sum(axis=-1), 1, rtol=1e-5)


def test_the_command_prints_classes_and_draws(trained, files, tmp_path, capsys):
    out = tmp_path / "out.png"
    code, shown, said = caller(classify.main, capsys)(trained, "--image", *files[:2], "--top", 2, "--attention", out)
    assert code in (0, None), said
    lines = shown.splitlines()
    assert lines[0] == f"--- {files[0]} ---"
    assert len(lines) == 6
    with Image.open(out) as drawn:
        assert drawn.size[0] > 300


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "no --image is given"),
        (["--image", "nothing.png"], "nothing.png: No such file"),
        (["--image", __file__], "no picture of a format that Pillow reads"),
        (["--image", "a.png", "--top", 0], "--top"),
        (["--image", "a.png", "--attention", "/nowhere/a.png"], "--attention"),
    ],
)
def test_what_will_not_do_is_a_line(flags, words, trained, capsys):
    line = refuser(caller(classify.main, capsys))(trained, *flags)
    assert words in line
    assert "--data" not in line  # a flag of training


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A small CLIP, after an update on drawn shapes."""
    experiment = configs.get("clip-shapes")
    model = dataclasses.replace(
        experiment.model, width=16, num_layers=1, num_heads=2, mlp_width=16, text_width=16, text_layers=1, text_heads=2,
        text_mlp_width=16, projection_width=8,
    )  # fmt: skip
    train = dataclasses.replace(experiment.train, steps=1, batch_size=8, eval_batches=1)
    folder = tmp_path_factory.mktemp("towers") / "run"
    experiment = dataclasses.replace(experiment, model=model, train=train, mesh=MeshConfig(data=1))
    loop.train(experiment, folder, report=lambda line: None)
    return folder


def test_labels_are_told_apart_by_a_model_of_images_and_texts(towers, files, capsys):
    call = caller(classify.main, capsys)
    labels = ["a red circle", "a blue square", "a cat"]
    code, shown, said = call(towers, "--image", *files[:2], "--labels", *labels, "--template", "{}.", "this is {}")
    assert code in (0, None), said
    blocks = shown.split("--- ")[1:]
    assert [block.splitlines()[0] for block in blocks] == [f"{file} ---" for file in files[:2]]
    restored = restore(towers)
    preprocessing, _ = preprocessing_of(restored)
    images = [preprocessing(Image.open(file).convert("RGB")) for file in files[:2]]
    want = TwoTowersReader(restored).probabilities(images, labels, ["{}.", "this is {}"])
    for block, row in zip(blocks, want, strict=True):
        lines = [line.split(maxsplit=1) for line in block.splitlines()[1:]]
        assert {label: float(probability) for probability, label in lines} == pytest.approx(
            dict(zip(labels, row.tolist(), strict=True)), abs=1e-4
        )
        assert [label for _, label in lines] == [labels[number] for number in np.argsort(-row)]
    assert len(call(towers, "--image", files[0], "--labels", *labels, "--top", 2)[1].splitlines()) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], 'a clip model, which has no classes of its own: give --labels "a cat" "a dog"'),
        (["--labels", "a cat", "--template", "a photo"], "template 'a photo' has no {}"),
        (["--labels", "a cat", "--attention", "a.png"], "--attention: "),
    ],
)
def test_what_will_not_do_of_images_and_texts_is_a_line(flags, words, towers, files, capsys):
    assert words in refuser(caller(classify.main, capsys))(towers, "--image", files[0], *flags)


def test_labels_are_refused_by_a_model_that_reads_no_texts(trained, files, capsys):
    refused = refuser(caller(classify.main, capsys))
    assert "--labels: " in refused(trained, "--image", files[0], "--labels", "a cat")
    assert "which reads no texts" in refused(trained, "--image", files[0], "--template", "a {}")


def test_the_encoder_of_a_run_is_probed(trained, monkeypatch, capsys):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)
    call = caller(evaluate.main, capsys)
    code, said, _ = call(trained, "--metric", "probe", "--per-class", 4)
    first, *rows = said.splitlines()
    assert (code, first.split(", ")[0]) == (0, "linear probe: 40 images to learn from")
    found = {row.split(" accuracy ")[0].strip(): float(row.split(" accuracy ")[1]) for row in rows}
    assert found.keys() == {"its features", "an untrained one's", "pixels"}
    assert found["pixels"] > 0.6
    refused = refuser(call)
    assert "--per-class is for --metric probe" in refused(trained, "--per-class", 4)
    assert "only a model of images and texts" in refused(trained, "--metric", "retrieval")
