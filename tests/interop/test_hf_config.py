"""config.json's fields: what changes nothing is accepted and goes out again, whatever is wrong is one line."""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tests.exhaustive import few
from tools import convert as tool
from transformer.errors import UserError
from transformer.interop import families, verify
from transformer.interop.harmless import HARMLESS

from . import parity
from .test_convert import KINDS

WILD = {
    "_attn_implementation_autoset": True,
    "_flash_attn_2_enabled": False,
    "_num_labels": 3,
    "add_cross_attention": False,
    "auto_map": None,
    "cross_attention_hidden_size": None,
    "exponential_decay_length_penalty": None,
    "pruned_heads": {},
    "quantization_config": None,
    "remove_invalid_values": False,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "torchscript": True,
    "unsloth_fixed": True,
    "unsloth_version": "2024.9",
    "use_bfloat16": True,
}
"""Fields of published config.json files that change nothing."""

OWN = {
    "gpt2": {"hidden_size": 16, "reorder_and_upcast_attn": True},
    "bert": {"embedding_size": 16, "classifier_dropout": 0.0},
    "roberta": {"embedding_size": 16},
    "distilbert": {"sinusoidal_pos_embds": True},
    "bart": {"num_hidden_layers": 2, "add_bias_logits": False, "normalize_embedding": True},
    "marian": {"num_hidden_layers": 2, "normalize_before": False, "static_position_embeddings": True},
}
"""Model type -> further fields of its published files."""


REWRITTEN = {"add_cross_attention", "sinusoidal_pos_embds"}
"""Fields that go out with the only value that is supported."""


def family_of(kind):
    return next(family for family in families.FAMILIES if family.model_type == kind)


def head_of(kind):
    return KINDS[kind].head


def read(kind, config):
    """Returns the architecture of a config.json, with the head and the number of labels of the kind's tiny model."""
    return family_of(kind).read_config(config, head_of(kind), KINDS[kind].num_labels)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_accepted_changes_none_of_transformers_outputs(kind):
    """Bit for bit; and it goes out as it came."""
    family, added = family_of(kind), {**WILD, **OWN.get(kind, {})}
    written = family.write_config(KINDS[kind])
    assert read(kind, written | added) == KINDS[kind]
    assert set(family.bookkeeping(written | added)) >= added.keys() - REWRITTEN

    assert_same_outputs(parity.make_pair(family, KINDS[kind]), added)


def assert_same_outputs(pair, added):
    """Asserts that Transformers' outputs do not change at all with further fields."""
    fields = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    fields |= pair.family.write_config(pair.config) | added
    [cls] = fields.pop("architectures")
    changed = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    changed._attn_implementation = "eager"
    model = getattr(transformers, cls)(changed).eval()
    model.load_state_dict(pair.theirs.state_dict())
    inputs = verify.their_inputs(verify.random_inputs(pair.config, 7, pad=None, eos=None))
    named = {name: parity.tensor(array) for name, array in inputs.items()}
    with torch.no_grad():
        have, want = model(**named), pair.theirs(**named)
    compared = {"logits", "prediction_logits", "logits_per_image"} & set(want)
    for name in compared:
        np.testing.assert_array_equal(have[name].numpy(), want[name].numpy())
    assert compared


@pytest.mark.parametrize("kind", KINDS)
def test_harmless_fields_change_none_of_transformers_outputs_whatever_they_say(kind):
    """Every field that Transformers has a default for, with another value."""
    family = family_of(kind)
    theirs = transformers.AutoConfig.for_model(kind).to_dict()
    named = {*HARMLESS, *family.harmless} - {field.theirs for field in family.fields} - set(family.pinned)
    other = {name: different(name, theirs[name]) for name in sorted(named & theirs.keys() - BY_OTHER_MEANS)}
    assert_same_outputs(parity.make_pair(family, KINDS[kind]), {n: v for n, v in other.items() if v is not None})


BY_OTHER_MEANS = {
    "architectures", "dtype", "id2label", "label2id", "model_type", "num_labels", "problem_type",
    "return_dict",  # a tuple
    "chunk_size_feed_forward",  # has to divide the length
}  # fmt: skip
"""Fields that this test cannot give another value."""


def different(name, value):
    """Returns another value of the same type, or None."""
    if name.endswith("_token_id"):
        return 3
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 + 0.1
    return value + 1 if isinstance(value, int) else None


@pytest.mark.parametrize("kind", few(["gpt2", "distilbert"], "gpt2"))
def test_a_folder_with_wild_fields_goes_in_and_out(kind, tmp_path):
    added = {**WILD, **OWN[kind]}
    parity.make_pair(family_of(kind), KINDS[kind]).theirs.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | added))
    tool.main(["verify", str(tmp_path / "hf"), "--length", "9"])
    tool.main(["import", str(tmp_path / "hf"), str(tmp_path / "run")])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    kept = {name: value for name, value in added.items() if name not in REWRITTEN}
    assert kept.items() <= json.loads((tmp_path / "out" / "config.json").read_text()).items()


@pytest.mark.parametrize("kind", KINDS)
def test_null_is_accepted_where_it_is_transformers_default(kind):
    family, base = family_of(kind), family_of(kind).write_config(KINDS[kind])
    theirs = transformers.AutoConfig.for_model(kind).to_dict()
    mapped = {field.theirs for field in family.fields} | family.spelled.keys()
    for name in (name for name, value in theirs.items() if value is None and name not in mapped):
        assert read(kind, base | {name: None}) == KINDS[kind], name


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("bert", "embedding_size", 8, "embedding_size = 8 is not supported, only hidden_size's 16"),
        ("bart", "num_hidden_layers", 3, "num_hidden_layers = 3 is not supported, only encoder_layers's 2"),
        ("gpt2", "pruned_heads", {"0": [1]}, "pruned_heads = {'0': .*not supported, only {}"),
        ("gpt2", "auto_map", {"AutoModel": "x.Y"}, "unknown fields, which may change the model: auto_map"),
        ("llama", "quantization_config", {"bits": 4}, "which may change the model: quantization_config"),
        ("llama", "rms_norm_eps", "1e-6", "rms_norm_eps = '1e-6' is not a finite number"),
        ("llama", "hidden_size", 16.0, "hidden_size = 16.0 is not a whole number"),
        ("llama", "hidden_size", -16, "hidden_size.*: width is -16"),
        ("llama", "vocab_size", 10**12, "vocab_size = 1000000000000 is too large"),
        ("llama", "tie_word_embeddings", 1, "tie_word_embeddings = 1 is not true or false"),
        ("llama", "rope_scaling", {"rope_type": "llama3", "factor": "8", "low_freq_factor": 1, "high_freq_factor": 4},
         "rope_scaling's factor = '8' is not a finite number"),
        ("t5", "feed_forward_proj", ["relu"], r"feed_forward_proj = \['relu'\] is not a string"),
        ("qwen2", "layer_types", [["full_attention"]], "layer_types = .* is not a string"),
    ],
)  # fmt: skip
def test_what_would_change_numbers_is_refused_by_name(kind, field, value, message):
    family = family_of(kind)
    with pytest.raises(UserError, match=message):
        family.read_config(family.write_config(KINDS[kind]) | {field: value}, head_of(kind))


@pytest.mark.parametrize("field", ["architectures", "id2label", "num_labels"])
@pytest.mark.parametrize("value", [5.5, "x", True])
def test_bookkeeping_that_is_read_is_checked_too(field, value):
    with pytest.raises(UserError, match=f"config.json: {field} = .* is not"):
        families.of_folder({"model_type": "gpt2", field: value})


_JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, -768, 2**31, 10**400]),
    st.floats(),
    st.sampled_from(["1e-6", "768", "", "true", "gelu"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["rope_type", "factor", "rope_theta", "a"]), st.none() | st.floats(), max_size=2),
)


SIGNED = {"logit_scale_init_value", "layerscale_value"}
"""Numbers that may be negative: where a logarithm and a factor start."""


def wrong(value, right, *, signed=False):
    """Whether a value is surely none for a field that may be `right`."""
    if isinstance(right, bool) or right is None:
        return right is not None and not isinstance(value, bool)
    if isinstance(right, float):
        return (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not (-1e308 if signed else 0) <= value <= 1e308
        )
    if isinstance(right, int):
        return type(value) is not int or value < 0
    return isinstance(right, str) and not isinstance(value, str)


NULLABLE = {"num_key_value_heads", "head_dim", "num_decoder_layers", "decoder_vocab_size", "sliding_window", "n_inner"}
"""Fields whose null Transformers fills in."""
OPTIONAL = {"clip_qkv", "q_lora_rank"}
"""Fields whose null means that a model goes without."""


def refusal(family, config, head):
    try:
        family.read_config(config, head)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_null_where_there_must_be_a_value_is_refused_by_name(kind):
    family = family_of(kind)
    base = family.write_config(KINDS[kind])
    names = {field.theirs for field in family.fields} | {*family.spelled, *family.pinned}
    for name in names & base.keys() - NULLABLE - OPTIONAL - {"model_type", "max_window_layers"}:
        if wrong(None, base[name]):
            assert name in (refusal(family, base | {name: None}, head_of(kind)) or ""), name


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_bad_value_of_any_field_is_one_line_that_names_it(kind, data):
    family = family_of(kind)
    base = family.write_config(KINDS[kind])
    names = {field.theirs for field in family.fields} - {"model_type"}
    names = {*(name for name in names if name in base), *family.spelled, *family.pinned} - {"max_window_layers"}
    name = data.draw(st.sampled_from(sorted(names)))
    value = data.draw(_JSON)
    message = refusal(family, base | {name: value}, head_of(kind))
    if name in base and wrong(value, base[name], signed=name in SIGNED) and not (value is None and name in NULLABLE):
        assert message is not None
        assert name in message
    assert "\n" not in (message or "")
