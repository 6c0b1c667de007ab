"""Log-likelihoods and perplexities, against PyTorch on the same weights."""

import jax
import numpy as np
import pytest
import torch
import transformers

from tests.inference.chat_models import write_model
from transformer.errors import UserError
from transformer.inference.likelihood import Continuation, LikelihoodModel, bucket, disjoint_windows, strided_windows
from transformer.inference.restored import restore
from transformer.parallel.mesh import MeshConfig, make_mesh

CONTEXT = 96


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, run = write_model(tmp_path_factory.mktemp("model"))
    return transformers.LlamaForCausalLM.from_pretrained(folder).eval(), run


def log_probabilities(theirs, tokens):
    with torch.no_grad():
        return torch.log_softmax(theirs(torch.tensor([tokens])).logits[0], dim=-1).numpy()


def drawn(count, seed=0):
    return np.random.default_rng(seed).integers(5, 250, count).tolist()


@pytest.mark.parametrize("mesh", [{"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_likelihoods_are_pytorchs(model, mesh):
    theirs, run = model
    mesh = make_mesh(MeshConfig(**mesh))
    ours = LikelihoodModel(restore(run, mesh=mesh), mesh, batch_size=3)
    greedy = int(log_probabilities(theirs, drawn(7))[-1].argmax())
    rows = [(drawn(5, n), drawn(1 + 9 * n, n + 9)) for n in range(5)]
    rows += [(drawn(7), [greedy]), (drawn(150), drawn(40, 3)), (drawn(3), drawn(CONTEXT))]
    found = ours([Continuation(*row) for row in rows])
    for (context, tokens), (have, is_greedy) in zip(rows, found, strict=True):
        read = [*context, *tokens][-(CONTEXT + 1) :]  # the left is cut, as the harness does
        scores = log_probabilities(theirs, read[:-1])[-len(tokens) :]
        assert have == pytest.approx(scores[np.arange(len(tokens)), tokens].sum(), rel=1e-5, abs=1e-5)
        assert is_greedy == bool((scores.argmax(axis=1) == tokens).all())
    assert found[5].is_greedy
    assert not found[3].is_greedy


@pytest.mark.parametrize("stride", [1, 17, 40, 95])
def test_perplexity_with_a_stride_is_transformers_recipe(model, stride):
    theirs, run = model
    tokens = drawn(230)
    total, count, scored = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):  # as in Transformers' guide, its mean taken over each token once
        end = min(begin + CONTEXT, len(tokens))
        ids = torch.tensor([tokens[begin:end]])
        labels = ids.clone()
        labels[:, : -(end - scored)] = -100
        valid = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(theirs(ids, labels=labels).loss) * valid
        count, scored = count + valid, end
        if end == len(tokens):
            break
    ours = LikelihoodModel(restore(run), batch_size=4)
    windows = list(strided_windows(tokens, CONTEXT, stride))
    found = ours(windows)
    assert sum(len(window.tokens) for window in windows) == count == len(tokens) - 1
    assert all(len(window.context) >= CONTEXT - stride for window in windows[1:])
    assert -sum(likelihood.log_likelihood for likelihood in found) / count == pytest.approx(total / count, rel=1e-5)


def test_windows_score_each_token_once():
    tokens = drawn(50)
    for windows, first in ((disjoint_windows(tokens, 16, 1), 0), (strided_windows(tokens, 16, 16), 1)):
        assert [token for window in windows for token in window.tokens] == tokens[first:]
    assert list(disjoint_windows([], 16, 1)) == []


def test_shapes_are_few():
    sizes = [bucket(length) for length in range(1, 1025)]
    assert sorted(set(sizes)) == [32, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(length <= size < 2 * max(length, 32) for length, size in enumerate(sizes, 1))


def test_what_cannot_be_scored_is_named(model):
    ours = LikelihoodModel(restore(model[1]))
    with pytest.raises(UserError, match="no token, or none before it"):
        ours([Continuation([], [1])])
    with pytest.raises(UserError, match="a continuation has 97 tokens and the model's context holds 96"):
        ours([Continuation([1], drawn(97))])
    with pytest.raises(UserError, match="--stride 97: give 1 to 96"):
        list(strided_windows(drawn(9), CONTEXT, 97))
    with pytest.raises(UserError, match="fewer than two tokens"):
        list(strided_windows([1], CONTEXT, 9))
    assert jax.device_count() == 8
