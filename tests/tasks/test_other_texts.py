"""Masks, features, entailment and choices: `transformer.pipeline` against Transformers' on the same folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import transformer
from tests.exhaustive import few
from tests.tasks.folders import CONTEXT, TEXTS, both, check_equal, save
from transformer.errors import UserError

MINILM = Path.home() / ".cache/real-weights/minilm"
NLI = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")


@pytest.fixture(scope="module", params=few(("bert", "roberta", "distilbert"), "bert", "roberta"))
def masked(request, tmp_path_factory):
    return both(save(tmp_path_factory.mktemp("m"), request.param, "ForMaskedLM"), "fill-mask"), request.param


def test_masks_are_filled_as_by_transformers(masked):
    (ours, theirs), kind = masked
    mask = "<mask>" if kind == "roberta" else "[MASK]"
    texts = [f"the {mask} sat", f"{mask} cat ran to {mask}.", f"naïve 日本, a {mask}!"]
    for options in ({}, {"top_k": 2}):
        for text in texts:
            check_equal(ours(text, **options), theirs(text, **options), text)
        check_equal(ours(texts, **options), theirs(texts, **options))
    targets = ["the", "cat", "dog"] if kind != "roberta" else ["the", "Ġthe", "a"]
    for options in ({"targets": targets}, {"targets": targets[0]}, {"targets": targets, "top_k": 2}):
        check_equal(ours(texts, **options), theirs(texts, **options), f"{options}")


def test_masks_that_cannot_be_filled(masked):
    (ours, _), _ = masked
    with pytest.raises(UserError, match="^input 1: 'the cat' has no mask"):
        ours(["[MASK]", "the cat"])
    with pytest.raises(UserError, match="^input 0: a text has .* tokens and the model's context holds 128"):
        ours("[MASK] " * 200)
    with pytest.raises(UserError, match="^0 guesses a mask"):
        ours("[MASK]", top_k=0)


@pytest.fixture(scope="module", params=few(("bert", "roberta", "distilbert", "gpt2", "bart"), "bert", "gpt2"))
def features(request, tmp_path_factory):
    """A folder may have another head, which is left out."""
    head = {"bart": "ForConditionalGeneration", "gpt2": "LMHeadModel"}.get(request.param, "ForMaskedLM")
    return both(save(tmp_path_factory.mktemp("m"), request.param, head), "feature-extraction")


def test_features_are_transformers(features):
    ours, theirs = features
    for given in (TEXTS[0], TEXTS):
        check_equal(ours(given), theirs(given))
    np.testing.assert_allclose(ours(TEXTS[1], return_tensors=True), theirs(TEXTS[1], return_tensors=True), atol=1e-4)
    long = "the cat sat " * CONTEXT
    check_equal(ours(long, truncation=True), theirs(long, truncation=True))
    with pytest.raises(UserError, match=f"tokens and the model reads {CONTEXT}"):
        ours(long)


@pytest.fixture(scope="module", params=few(("bert", "roberta", "bart"), "bert"))
def entailing(request, tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("m"), request.param, "ForSequenceClassification", labels=NLI)
    return both(folder, "zero-shot-classification")


def test_entailment_is_transformers(entailing):
    ours, theirs = entailing
    labels = ["cat", "dog", "a naïve 日本"]
    for options in ({}, {"multi_label": True}, {"hypothesis_template": "a {} ran"}):
        for given in (TEXTS[0], TEXTS, "the cat sat " * CONTEXT):
            check_equal(ours(given, labels, **options), theirs(given, labels, **options), f"{options}")
    check_equal(ours(TEXTS, candidate_labels="cat, dog,covid"), theirs(TEXTS, candidate_labels="cat, dog,covid"))
    check_equal(ours(TEXTS[0], candidate_labels=["cat"]), theirs(TEXTS[0], candidate_labels=["cat"]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs candidate_labels"),
        ({"candidate_labels": []}, "needs candidate_labels"),
        ({"candidate_labels": ["a"], "hypothesis_template": "a cat"}, "has no {}"),
    ],
)
def test_entailment_that_is_refused(entailing, options, says):
    with pytest.raises(UserError, match=says):
        entailing[0]("a text", **options)


def test_classes_that_are_not_of_entailment(tmp_path):
    folder = save(tmp_path, "bert", "ForSequenceClassification", num_labels=3)
    with pytest.raises(UserError, match="tells LABEL_0, LABEL_1, LABEL_2: .* a class whose name begins with entail"):
        transformer.pipeline("zero-shot-classification", model=folder)


@pytest.mark.parametrize("kind", few(("bert", "roberta", "distilbert"), "bert"))
def test_choices(tmp_path, kind):
    """A softmax over the scores that Transformers' model gives each choice behind the prompt."""
    folder = save(tmp_path, kind, "ForMultipleChoice")
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    choices = ["a dog ran", "covid", "the cat sat to a cat"]
    encoded = tokenizer([TEXTS[0]] * 3, choices, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model(**{name: values[None] for name, values in encoded.items()}).logits[0].softmax(-1).tolist()
    answer = transformer.pipeline("multiple-choice", model=folder)({"prompt": TEXTS[0], "choices": choices})
    assert [each["label"] for each in answer] == [choices[each["index"]] for each in answer]
    assert [each["score"] for each in answer] == sorted((each["score"] for each in answer), reverse=True)
    for each in answer:
        assert each["score"] == pytest.approx(scores[each["index"]], abs=1e-4)
    with pytest.raises(UserError, match="choices are to be a list of two texts or more"):
        transformer.pipeline("multiple-choice", model=folder)({"prompt": "a", "choices": ["b"]})


@pytest.mark.skipif(not MINILM.exists(), reason="needs the real weights of MiniLM")
def test_real_sentences():
    """Cosines of means over tokens, as sentence-transformers has them; and features, on real weights."""
    ours, theirs = both(MINILM, "feature-extraction")
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah is running behind its prey."]
    check_equal(ours(texts), theirs(texts), tolerance=5e-4)
    vectors = np.stack([np.mean(theirs(text)[0], axis=0) for text in texts])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    alike = transformer.pipeline("sentence-similarity", model=MINILM)
    answer = alike({"source_sentence": texts[0], "sentences": texts[1:]})
    np.testing.assert_allclose(answer, vectors[1:] @ vectors[0], atol=1e-4)
    assert answer[0] > 0.6 > 0.2 > answer[1]
    with pytest.raises(UserError, match="sentences are to be a list"):
        alike({"source_sentence": "a", "sentences": []})


def test_a_folder_is_not_written_again(tmp_path):
    folder = save(tmp_path / "hf", "bert", "ForMaskedLM")
    before = sorted(os.listdir(folder))
    pipe = transformer.pipeline("feature-extraction", model=folder)
    assert sorted(os.listdir(folder)) == before
    scratch = Path(pipe.model.record)
    assert not list(scratch.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file()) < 100_000
    del pipe
    assert not scratch.exists(), "what is held beside the weights goes with the model"
