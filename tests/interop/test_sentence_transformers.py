"""Sentence-transformers folders: in, and out as such; what the library's own loading would make of them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from etils import epath

from tests.exhaustive import few
from tests.tiny_models import TINY
from tools import convert as tool
from transformer.errors import UserError
from transformer.interop.bert import BERT

from . import parity

WIDTH = TINY["bert"].width
POOLING = {
    "word_embedding_dimension": WIDTH,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": True,
}
SIDES = {
    "config_sentence_transformers.json": {"__version__": {}, "prompts": {"query": "query: "}},
    "sentence_bert_config.json": {"max_seq_length": 9, "do_lower_case": False},
    "1_Pooling/config.json": POOLING,
}


def kinds(*names, package="sentence_transformers.models"):
    """Returns modules.json: a module a name, the first in the folder itself."""
    return [
        {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "", "type": f"{package}.{name}"}
        for index, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder that Transformers wrote, and the library's files beside."""
    folder = tmp_path_factory.mktemp("original")
    parity.make_pair(BERT, dataclasses.replace(TINY["bert"], head="none")).theirs.save_pretrained(folder)
    write(folder, {"modules.json": kinds("Transformer", "Pooling", "Normalize"), **SIDES})
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """A copy of the folder, to be changed."""
    return shutil.copytree(original, tmp_path / "hf")


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def vectors(folder, tokens, mask):
    """Returns [B, D] as the library makes them, module by module: what its documentation says of a folder's layout."""
    for entry in json.loads((folder / "modules.json").read_text()):
        path = folder / entry["path"]
        match entry["type"].rpartition(".")[2]:
            case "Transformer":
                model = transformers.AutoModel.from_pretrained(path, attn_implementation="eager").eval()
                json.loads((path / "sentence_bert_config.json").read_text())["max_seq_length"]  # it has to be there
                with torch.no_grad():
                    words = model(input_ids=tokens, attention_mask=mask).last_hidden_state
            case "Pooling":
                settings = json.loads((path / "config.json").read_text())
                assert settings["word_embedding_dimension"] == words.shape[-1]
                parts = []
                if settings.get("pooling_mode_cls_token"):
                    parts.append(words[:, 0])
                if settings.get("pooling_mode_max_tokens"):
                    parts.append(words.masked_fill(mask[:, :, None] == 0, -1e9).max(dim=1).values)
                if settings.get("pooling_mode_mean_tokens"):
                    parts.append((words * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))
                sentence = torch.cat(parts, dim=1)
            case "Normalize":  # of which nothing is in the folder
                sentence = sentence / sentence.norm(dim=1, keepdim=True)
    return sentence.numpy()


PACKAGES = ["sentence_transformers.models", "sentence_transformers.base.modules.pooling"]


@pytest.mark.parametrize("package", few(PACKAGES, PACKAGES[0]))
def test_it_goes_out_as_it_came(saved, tmp_path, package, capsys):
    write(saved, {"modules.json": kinds("Transformer", "Pooling", "Normalize", package=package)})
    tool.main(["import", str(saved), str(tmp_path / "run")])
    assert "sentences   pooled by mean_tokens and max_tokens, normalised" in capsys.readouterr().out
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    for name in ("modules.json", *SIDES):
        assert (tmp_path / "out" / name).read_bytes() == (saved / name).read_bytes(), name
    tokens, mask = torch.tensor([[2, 5, 7, 3], [2, 6, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    np.testing.assert_array_equal(vectors(tmp_path / "out", tokens, mask), vectors(saved, tokens, mask))


def test_it_goes_through_an_object_store(saved, tmp_path, store):
    run = epath.Path("gs://bucket/run")
    tool.main(["import", str(saved), str(run)])
    tool.main(["export", str(run), str(tmp_path / "out")])
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_bytes() == (
        saved / "1_Pooling/config.json"
    ).read_bytes()
    run.rmtree()


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        (kinds("Transformer", "Pooling", "Dense", "Normalize"), "sentence_transformers.models.Dense"),
        (kinds("Transformer", "Pooling", package="my_models")[1:], "my_models.Pooling"),
    ],
)
def test_a_module_of_unknown_numbers_is_named_and_no_other_model_goes_out(saved, tmp_path, entries, name, capsys):
    first = kinds("Transformer")
    write(saved, {"modules.json": entries if entries[0]["path"] == "" else first + entries})
    tool.main(["import", str(saved), str(tmp_path / "run")])
    assert f"sentences   left out: modules.json has what is not known here: {name}" in capsys.readouterr().out
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert not {*(path.name for path in (tmp_path / "out").iterdir())} & {"modules.json", "1_Pooling", *SIDES}


def test_a_new_head_is_no_model_of_sentences(saved, tmp_path):
    tool.main(["import", str(saved), str(tmp_path / "run"), "--head", "sequence_classification"])
    tool.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert not (tmp_path / "out" / "modules.json").exists()


def test_a_plain_folder_has_no_line_for_it(saved, tmp_path, capsys):
    (saved / "modules.json").unlink()
    tool.main(["import", str(saved), str(tmp_path / "run")])
    assert "sentences" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1_Pooling/config.json": POOLING | {"word_embedding_dimension": 768}},
         f"1_Pooling/config.json: word_embedding_dimension = 768, and the model's vectors have {WIDTH} values"),
        ({"1_Pooling/config.json": []}, "1_Pooling/config.json: not a JSON object"),
        ({"modules.json": {}}, "modules.json: not a list of sentence-transformers modules that begins with a Transf"),
        ({"modules.json": []}, "modules.json: not a list of sentence-transformers modules"),
        ({"modules.json": kinds("Pooling")}, "modules.json: not a list of sentence-transformers modules that begins"),
        ({"modules.json": [3]}, "modules.json: 3 is no module with a path and a type"),
        ({"modules.json": [{"path": "", "type": 3}]}, "modules.json: .* is no module with a path and a type"),
        ({"modules.json": [*kinds("Transformer"), {"path": "../x", "type": "sentence_transformers.models.Pooling"}]},
         "modules.json names a folder outside of its own: '../x'"),
        ({"modules.json": [kinds("Transformer")[0] | {"path": "0_Transformer"}]},
         "modules.json: the transformer lies in a folder of its own: give .*0_Transformer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_nothing_is_written(saved, tmp_path, files, message):
    write(saved, files)
    with pytest.raises(UserError, match=message) as error:
        tool.main(["import", str(saved), str(tmp_path / "run")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_a_file_that_is_no_json_is_one_line(saved, tmp_path, content):
    (saved / "modules.json").write_text(content)
    with pytest.raises(UserError, match=r"modules.json: not JSON"):
        tool.main(["import", str(saved), str(tmp_path / "run")])


def test_settings_that_are_not_there_are_named(saved, tmp_path):
    (saved / "1_Pooling" / "config.json").unlink()
    with pytest.raises(UserError, match="1_Pooling/config.json: No such file"):
        tool.main(["import", str(saved), str(tmp_path / "run")])
