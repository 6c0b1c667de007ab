"""One tensor under several names, and tensors that a file leaves out: whatever Transformers makes of them, equally."""

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop import convert, families
from transformer.interop.bart import BART
from transformer.interop.marian import MARIAN
from transformer.interop.verify import verify

from . import parity
from .test_convert import KINDS

TIED = ("bart", "marian", "whisper")
"""Those that have no form without ties."""


def _model(kind, **fields):
    """Transformers' own model of a kind, made from its config, as a person would make it."""
    family = next(family for family in families.FAMILIES if family.model_type == kind)
    written = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **family.write_config(KINDS[kind])}
    [cls], model_type = written.pop("architectures"), written.pop("model_type")
    for name in ("scale_decoder_outputs", "tie_word_embeddings"):
        written.pop(name, None)
    config = transformers.AutoConfig.for_model(model_type, **{**written, **fields})
    model = getattr(transformers, cls)(config).eval()
    parity.randomise(model)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", few([kind for kind in KINDS if kind not in TIED], "gpt2", "t5", "vit", "clip"))
def test_what_transformers_makes_and_saves_is_read(kind, tied, tmp_path):
    """Whatever the config says of ties, the saved folder is read, and gives what Transformers gives for it."""
    _model(kind, tie_word_embeddings=tied).save_pretrained(tmp_path / "hf")
    assert verify(tmp_path / "hf", num_tokens=9, tolerance=1e-5, report=lambda line: None) <= 1e-5


@pytest.mark.parametrize("kind", TIED)
def test_sides_with_tables_of_their_own_are_refused(kind, tmp_path):
    _model(kind, tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    assert verify(tmp_path / "tied", num_tokens=9, tolerance=1e-5, report=lambda line: None) <= 1e-5
    _model(kind, tie_word_embeddings=False).save_pretrained(tmp_path / "untied")
    with pytest.raises(UserError, match="tie_word_embeddings = False is not supported"):
        convert.import_folder(tmp_path / "untied")


# In memory, Transformers' mixtures hold their experts fused, and encoders of images have other names than in files.
# `save_model` writes what is in memory: no file that anybody has.
SAVED = [kind for kind, config in KINDS.items() if config.routing is None and config.kind != "image_encoder"]


@pytest.mark.parametrize("kind", few(SAVED, "gpt2", "openai-gpt", "llama", "roberta", "t5", "bart", "marian"))
def test_any_name_of_a_tied_tensor_is_enough(kind, tmp_path):
    """`save_model` keeps one of the names, the first of the alphabet: lm_head.weight of GPT-2's two."""
    model = _model(kind, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "hf")
    want = convert.import_folder(tmp_path / "hf").params
    safetensors.torch.save_model(model, str(tmp_path / "hf" / "model.safetensors"), metadata={"format": "pt"})
    have = convert.import_folder(tmp_path / "hf").params
    torch.utils._pytree.tree_map(np.testing.assert_array_equal, have, want)


@pytest.mark.parametrize("family", [BART, MARIAN], ids=lambda family: family.model_type)
def test_each_name_of_the_words_alone_and_with_bare_names(family):
    config = KINDS[family.model_type]
    tensors = parity.in_memory(parity.make_pair(family, config, pad_token_id=None).theirs)
    want = family.from_hf(tensors, config)
    names = [name for name in tensors if "embed_tokens" in name or name in ("model.shared.weight", "lm_head.weight")]
    assert len(names) == 4
    for name in names:
        alone = {key: array for key, array in tensors.items() if key not in names or key == name}
        have = family.from_hf(alone, config)
        torch.utils._pytree.tree_map(np.testing.assert_array_equal, have, want)
        bare = {key.removeprefix("model."): array for key, array in alone.items()}
        have = family.from_hf(bare, config)
        torch.utils._pytree.tree_map(np.testing.assert_array_equal, have, want)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["marian", "bart"])
def test_constants_that_differ_by_more_than_their_rounding_are_refused(kind, dtype):
    """Half precision too, where 1 % would be seen in the scores."""
    import ml_dtypes

    family, config = {"marian": MARIAN, "bart": BART}[kind], KINDS[kind]
    tensors = parity.in_memory(parity.make_pair(family, config, pad_token_id=None).theirs)
    name = {"marian": "model.decoder.embed_positions.weight", "bart": "final_logits_bias"}[kind]
    stored = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    family.from_hf({**tensors, name: tensors[name].astype(stored)}, config)
    with pytest.raises(UserError, match=f"{name!r} is not the constant"):
        family.from_hf({**tensors, name: (tensors[name] * 0.99 + 0.005).astype(stored)}, config)


def test_a_bias_that_is_a_buffer_may_be_left_out():
    """Transformers then has zeros, with no key missing."""
    config = KINDS["marian"]
    tensors = parity.in_memory(parity.make_pair(MARIAN, config, pad_token_id=None).theirs)
    params = MARIAN.from_hf({key: array for key, array in tensors.items() if key != "final_logits_bias"}, config)
    assert not params["head"]["bias"].any()


def test_a_table_that_transformers_ties_goes_out_once(tmp_path):
    """Once they differ, both are written."""
    from transformer.interop.t5 import MT5

    config = KINDS["mt5"]
    model = _model("mt5", tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "hf")
    imported = convert.import_folder(tmp_path / "hf")
    assert "lm_head.weight" not in dict(MT5.stream(imported.params, config))
    imported.params["head"]["kernel"] = imported.params["head"]["kernel"] + 1
    assert "lm_head.weight" in dict(MT5.stream(imported.params, config))
