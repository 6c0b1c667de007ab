"""One architecture's weights for another: what is taken, extended, new and left out; what does not fit is refused."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import TINY
from transformer.errors import UserError
from transformer.transfer.config import InitConfig
from transformer.transfer.extend import Extension, extend
from transformer.transfer.graft import graft, plan

BERT = TINY["bert"]
LEAVES = sorted(BERT.parameters)
init = functools.partial(InitConfig, "not read")


@pytest.mark.parametrize("head", ["masked_lm", "sequence_classification", "question_answering", "none"])
def test_the_backbone_is_taken_and_the_rest_is_named(head):
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0, leaf.dtype), nn.meta.unbox(BERT.abstract_params()))
    target = dataclasses.replace(BERT, head=head, num_labels=3)
    tree, new, left = graft(BERT, target, params)
    shapes = jax.tree.map(jnp.shape, nn.meta.unbox(target.abstract_params()))
    assert jax.tree.map(jnp.shape, tree) == shapes
    assert not any(path.startswith("backbone/") for path in (*new, *left))
    flat = flatten_dict(tree, sep="/")
    assert all((flat[path] == 7.0).all() for path in flat if path not in new)
    assert ("head/out/kernel" in new) == (head in ("sequence_classification", "question_answering"))
    assert not any((flat[path] == 7.0).all() for path in new)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (
            "bert",
            {"num_layers": 3},
            r"backbone/stack/layers/attention/key/bias \(2, 4, 4\), needed \(3, 4, 4\); .* and 11 more; to take "
            r"some of the layers name them by --init.layers \(or --init.decoder-layers\)$",
        ),
        (
            "bert",
            {"vocab_size": 48},
            r"embedding \(32, 16\), needed \(48, 16\); to extend .*--init.vocabulary fresh or mean$",
        ),
        ("bert", {"vocab_size": 31}, "never cut: set --model.vocab-size to at least 32$"),
        ("gpt", {"context_length": 20}, "to extend the positions give --init.positions fresh, repeat or interpolate$"),
        ("roberta", {"context_length": 9}, "never cut: keep --model.context-length 16 and lower --train.seq-len$"),
        ("t5", {"relative_buckets": 64}, r"relative_bias/embedding \(32, 4\), needed \(64, 4\)$"),
    ],
)
def test_another_backbone_is_refused_by_name_and_with_what_to_do(family, fields, message):
    with pytest.raises(UserError, match=message):
        plan(TINY[family], dataclasses.replace(TINY[family], **fields))


@pytest.mark.parametrize(
    ("family", "fields"),
    [("bert", {"vocab_size": 31}), ("bert", {"context_length": 9}), ("t5", {"relative_buckets": 64})],
)
def test_no_rule_cuts_or_extends_what_is_no_table(family, fields):
    with pytest.raises(UserError, match="backbone is not the architecture's"):
        plan(TINY[family], dataclasses.replace(TINY[family], **fields), init(None, "mean", "repeat"))


@pytest.mark.parametrize("family", [name for name, model in TINY.items() if model.vocab_size is not None])
def test_every_family_of_words_grows(family):
    """Every array that follows the vocabulary, the head's too; and learned positions, where the family has them."""
    source = TINY[family]
    fields = {field.name for field in dataclasses.fields(source)}
    sizes = {"vocab_size": 40} | ({"context_length": 24} if "context_length" in fields else {})
    target = dataclasses.replace(source, **sizes)
    learned = any("positions" in leaf.names for leaf in source.parameters.values())
    made = plan(source, target, init(None, "mean", "interpolate" if learned else None))
    assert not made.new
    assert not made.left
    want = {path: leaf.names for path, leaf in target.parameters.items() if {"vocab", "positions"} & {*leaf.names}}
    assert made.extended.keys() == want.keys()
    for path, how in made.extended.items():
        rows = target.parameters[path].shape[how.axis]
        assert rows == (40 if how.name == "vocab" else how.first + 24)
        assert how.name == want[path][how.axis]
        assert how.first == (2 if how.name == "positions" and family in ("roberta", "bart") else 0)
        assert how.rule == {"vocab": "mean", "positions": "interpolate"}[how.name]
    if not learned:
        with pytest.raises(UserError, match="--init.positions repeat has nothing to extend"):
            plan(source, target, init(None, "mean", "repeat"))


def test_positions_that_begin_at_another_row_are_not_the_same():
    """RoBERTa of a context of 14 and BERT of one of 16 have tables of one shape."""
    source = dataclasses.replace(BERT, num_token_types=1, head="unpooled")
    target = dataclasses.replace(TINY["roberta"], context_length=14, head="unpooled")
    assert source.parameters["backbone/position_embedding/embedding"].shape == (16, 16)
    assert target.parameters["backbone/position_embedding/embedding"].shape == (16, 16)
    with pytest.raises(UserError, match="positions begin at row 0 there and at row 2 here"):
        plan(source, target)


@given(st.sets(st.sampled_from(LEAVES), min_size=1))
def test_the_leaves_that_are_asked_for_are_taken_and_no_others(asked):
    made = plan(BERT, BERT, init(leaves="|".join(asked)))
    assert made.taken == sorted(asked)
    assert made.new == made.left == sorted(set(LEAVES) - asked)


def test_leaves_that_are_not_asked_for_may_differ():
    target = dataclasses.replace(BERT, vocab_size=48, context_length=9, head="sequence_classification", num_labels=3)
    made = plan(BERT, target, init(leaves="backbone/stack/layers/.*"))
    assert made.taken == [path for path in LEAVES if path.startswith("backbone/stack/layers/")]
    assert "backbone/token_embedding/embedding" in made.new
    with pytest.raises(UserError, match=r"backbone/token_embedding/embedding \(32, 16\), needed \(48, 16\)"):
        plan(BERT, target, init(leaves="backbone/(stack|token_embedding)/.*"))
    with pytest.raises(UserError, match="--init.vocabulary mean has nothing to extend"):
        plan(BERT, target, init("backbone/stack/layers/.*", "mean"))


def test_leaves_that_match_nothing_are_refused_with_the_nearest():
    for pattern in ("backbone/stack", "layers/attention/query/kernel", "head/out/.*"):
        with pytest.raises(UserError, match="the nearest: .*backbone|the nearest: .*head"):
            plan(BERT, BERT, init(leaves=pattern))
    with pytest.raises(UserError, match="the nearest: backbone/stack/layers/attention/query/kernel, "):
        plan(BERT, BERT, init(leaves="backbone/stack/layers/atention/query/kernel"))
    more = dataclasses.replace(BERT, head="sequence_classification", num_labels=3)
    with pytest.raises(UserError, match=r"no weights would be taken: head/out/kernel \(16, 3\), needed \(16, 4\)"):
        plan(more, dataclasses.replace(more, num_labels=4), init(leaves="head/out/kernel"))


def _deep(family, layers, **fields):
    """A tiny model of so many layers."""
    return dataclasses.replace(TINY[family], num_layers=layers, **fields)


def test_a_student_begins_with_some_of_its_teachers_layers():
    """As `extract_distilbert.py` of Hugging Face's distillation makes DistilBERT of BERT, which drops token types."""
    source, target = _deep("bert", 6), _deep("distilbert", 3)
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in source.parameters.items()}
    with pytest.raises(UserError, match=r"type_embedding/embedding \(2, 16\), needed none$"):
        plan(source, target, init(layers=(0, 2, 4)))
    made = plan(source, target, init(layers=(5, 0, 2), leaves="(?!backbone/type_embedding).*"))
    assert not made.new
    fresh = {path: jnp.zeros(leaf.shape) for path, leaf in target.parameters.items()}
    tree = flatten_dict(made.assemble(params, fresh), sep="/")
    assert tree.keys() == target.parameters.keys()
    for path, leaf in tree.items():
        want = params[path][[5, 0, 2]] if path.startswith("backbone/stack/") else params[path]
        np.testing.assert_array_equal(leaf, want)
    assert {path.split("/")[0] for path in made.left if not path.startswith("backbone/type")} == {"pooler", "sentence"}


def test_either_side_of_an_encoder_decoder_may_begin_with_some_layers():
    source = dataclasses.replace(TINY["bart"], num_encoder_layers=3, num_decoder_layers=4)
    target = dataclasses.replace(source, num_decoder_layers=2)
    made = plan(source, target, init(decoder_layers=(0, 3)))
    assert set(made.picked.values()) == {(0, 3)}
    assert all(path.startswith("backbone/decoder/stack/layers/") for path in made.picked)
    assert any(path.startswith("backbone/encoder/stack/layers/") for path in made.taken)
    shorter = dataclasses.replace(target, num_encoder_layers=1)
    made = plan(source, shorter, init(layers=(2,), decoder_layers=(0, 3)))
    picked = {path.split("/")[1]: layers for path, layers in made.picked.items()}
    assert picked == {"encoder": (2,), "decoder": (0, 3)}


@pytest.mark.parametrize(
    ("source", "target", "fields", "message"),
    [
        (
            _deep("bert", 4),
            _deep("bert", 2),
            {"layers": (0, 1, 2)},
            "--init.layers 0 1 2: give 2 layers, each of 0 to 3",
        ),
        (_deep("bert", 4), _deep("bert", 2), {"layers": (0, 4)}, "--init.layers 0 4: give 2 layers, each of 0 to 3"),
        (_deep("bert", 4), _deep("bert", 2), {"decoder_layers": (0, 1)}, "--init.decoder-layers: bert has the stacks"),
        (_deep("albert", 4), _deep("albert", 2), {"layers": (0, 1)}, "--init.layers has nothing to take of"),
        (_deep("gpt", 4), _deep("gpt", 2), {"layers": (0, 1)}, "backbone is not the architecture's"),
    ],
    ids=["too many", "beyond the last", "no such side", "shared", "in groups"],
)
def test_layers_that_are_not_there_are_refused(source, target, fields, message):
    with pytest.raises(UserError, match=message):
        plan(source, target, init(**fields))


def test_a_longer_array_is_laid_out_as_the_initial_one(mesh_2x2x2):
    sharding = jax.NamedSharding(mesh_2x2x2, jax.P("tensor", "fsdp"))
    old, fresh = (np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32) for rows in (5, 8))
    made = dataclasses.replace(
        plan(BERT, BERT), taken=["a"], extended={"b/c": Extension("vocab", 0, "mean")}, new=["d"], left=[]
    )
    have = {"a": old, "b/c": jax.device_put(old, jax.NamedSharding(mesh_2x2x2, jax.P(None, "fsdp")))}
    tree = made.assemble(have, {"b/c": jax.device_put(fresh, sharding), "d": fresh})
    assert tree["a"] is old
    assert tree["d"] is fresh
    assert tree["b"]["c"].sharding == sharding
    np.testing.assert_allclose(tree["b"]["c"], np.concatenate([old, np.tile(old.mean(0), (3, 1))]), rtol=1e-6)


@pytest.mark.parametrize("size", [4, 12])
@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_the_places_of_patches_are_resized_as_a_grid(family, size):
    source, target = TINY[family], dataclasses.replace(TINY[family], image_size=size)
    with pytest.raises(UserError, match="give --init.positions interpolate"):
        plan(source, target)
    with pytest.raises(UserError, match="give --init.positions interpolate"):
        plan(source, target, init(None, None, "repeat"))
    made = plan(source, target, init(None, None, "interpolate"))
    [path] = made.extended
    assert path == "backbone/position_embedding/table/embedding"
    before = int(source.class_token)
    old = np.random.default_rng(0).normal(size=source.parameters[path].shape).astype(np.float32)
    fresh = np.zeros(target.parameters[path].shape, np.float32)
    have = np.asarray(extend(old, fresh, made.extended[path]))
    grid = torch.tensor(old[before:]).double().reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    side = size // source.patch_size
    want = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    np.testing.assert_array_equal(have[:before], old[:before])
    np.testing.assert_allclose(have[before:], want[0].permute(1, 2, 0).reshape(side**2, -1).numpy(), atol=1e-6)


def test_a_masked_autoencoders_backbone_begins_a_classifier():
    classifier = TINY["vit"]
    source = dataclasses.replace(
        classifier, head="masked_pixels", kept_patches=4, decoder_width=8, decoder_layers=1, decoder_heads=2
    )
    made = plan(source, classifier)
    assert {path.split("/")[0] for path in made.new} == {"head", "pooler"}
    assert all(path.startswith("backbone/") for path in made.taken)
    assert {path.split("/")[0] for path in made.left} == {"widen", "mask_token", "decoder", "decoder_norm", "pixels"}
