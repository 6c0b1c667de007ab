"""Pictures and recordings: answers of `transformer.pipeline` against Transformers' on the same folder."""

from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image
from tokenizers import pre_tokenizers

import transformer
from tests.interop.parity import randomise
from tests.tasks.folders import both, check_equal
from transformer.errors import UserError

REAL = Path.home() / ".cache/real-weights"
LABELS = ("a cat", "a dog", "a house")
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
           "image_size": 16, "patch_size": 4}  # fmt: skip


def pictures(folder):
    """Files of two pictures that are stored lying down."""
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    files = []
    for number, size in enumerate(((20, 31), (16, 16))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{number}.png", exif=exif)
        files.append(str(folder / f"{number}.png"))
    return files


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**_VISION, **names)).eval()
    randomise(model)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_classes_of_images_are_transformers(vit, tmp_path):
    ours, theirs = both(vit, "image-classification")
    files = pictures(tmp_path)
    for given in (files[0], files, Image.open(files[0])):
        for options in ({}, {"top_k": 2}, {"function_to_apply": "sigmoid"}):
            check_equal(ours(given, **options), theirs(given, **options), f"{options}")
    assert list(ours(iter(files))) == ours(files)
    with pytest.raises(UserError, match="^input 1 is an address, and nothing is fetched"):
        ours([files[0], "https://example.org/a.png"])
    with pytest.raises(UserError, match="^input 0 is a int: give a file, or a PIL image"):
        ours(3)


def test_features_of_images_are_transformers(tmp_path):
    model = transformers.ViTModel(transformers.ViTConfig(**_VISION)).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    ours, theirs = both(tmp_path, "image-feature-extraction")
    files = pictures(tmp_path)
    for options in ({}, {"pool": True}):
        check_equal(ours(files, **options), theirs(files, **options), f"{options}", tolerance=5e-4)
    assert ours(files[0], return_tensors=True).shape == (1, 17, 32)


def test_labels_of_images_are_transformers(tmp_path):
    texts = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 48, "max_position_embeddings": 30}  # fmt: skip
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    transformers.CLIPTokenizer(vocabulary, [("c", "a"), ("ca", "t</w>")]).save_pretrained(tmp_path)
    size = len(vocabulary)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(
        text_config={**texts, "vocab_size": size, **ids}, vision_config=_VISION, projection_dim=24
    )
    model = transformers.CLIPModel(config).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    cut = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPImageProcessor(**cut).save_pretrained(tmp_path)
    ours, theirs = both(tmp_path, "zero-shot-image-classification")
    shown = pictures(tmp_path)
    for given in (shown[0], shown):
        check_equal(ours(given, list(LABELS)), theirs(given, candidate_labels=list(LABELS)))
    options = {"candidate_labels": ["cat", "dog"], "hypothesis_template": "a {}"}
    check_equal(ours(shown, **options), theirs(shown, **options))
    with pytest.raises(UserError, match="needs candidate_labels"):
        ours(shown[0])


@pytest.mark.skipif(not (REAL / "whisper-tiny.en").exists(), reason="needs the real weights of Whisper")
def test_speech_is_transformers():
    ours, theirs = both(REAL / "whisper-tiny.en", "automatic-speech-recognition")
    import soundfile

    recordings = [soundfile.read(REAL / "speech" / f"cards-00{n}.wav", dtype="float32")[0] for n in (1, 2)]
    greedy = {"num_beams": 1, "max_new_tokens": 60}
    wanted = [theirs(each.copy(), generate_kwargs=greedy)["text"] for each in recordings]
    assert [answer["text"] for answer in ours(recordings, generate_kwargs=greedy)] == wanted
    searched = theirs(recordings[0].copy())  # five beams and 256 tokens
    assert ours(recordings[0]) == searched
    ours = transformer.pipeline("automatic-speech-recognition", model=ours.model, generate_kwargs=greedy)
    named = ours(str(REAL / "speech" / "cards-001.wav"))
    assert named["text"] == wanted[0]
    assert ours({"array": recordings[0], "sampling_rate": 16_000}) == named
    assert ours({"raw": np.stack([recordings[0]] * 2), "sampling_rate": 16_000}) == named
    timed = ours(recordings[0], return_timestamps=True)
    [wanted_times] = [theirs(recordings[0].copy(), generate_kwargs=greedy, return_timestamps=True)]
    assert timed["text"] == wanted_times["text"]
    for own, their in zip(timed["chunks"], wanted_times["chunks"], strict=True):
        assert own["text"] == their["text"]
        np.testing.assert_allclose(own["timestamp"], their["timestamp"], atol=0.011)
    with pytest.raises(UserError, match="^input 0: samples are to be"):
        ours(np.zeros((3, 8), np.float32))
    with pytest.raises(UserError, match="^return_timestamps is 'char'"):
        ours(recordings[0], return_timestamps="char")
