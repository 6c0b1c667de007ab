"""The fields of a SentencePiece model that are described here are those that SentencePiece describes."""

import ast
import importlib.util
import io

import pytest
import sentencepiece
from google.protobuf import descriptor_pb2

from transformer.tokenizers.sentencepiece_model import _FIELDS, read_pieces, read_spec


def sentencepieces_own() -> dict[str, dict[str, descriptor_pb2.FieldDescriptorProto]]:
    """Message -> field, of the serialized description in SentencePiece's generated code, which is not imported."""
    spec = importlib.util.find_spec("sentencepiece.sentencepiece_model_pb2")
    with open(spec.origin) as source:
        tree = ast.parse(source.read())
    [serialized] = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile"
    ]
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    messages = {message.name: message for message in file.message_type}
    [messages["Piece"]] = messages["ModelProto"].nested_type
    return {name: {field.name: field for field in message.field} for name, message in messages.items()}


def test_numbers_and_defaults_are_sentencepieces_own():
    theirs = sentencepieces_own()
    for message, fields in _FIELDS.items():
        for name, (number, _, default) in fields.items():
            field = theirs[message][name]
            assert field.number == number
            if name in ("model_type", "type"):
                assert (field.default_value, default) == ("UNIGRAM" if name == "model_type" else "NORMAL", "1")
            elif default:
                assert (field.default_value or {"unk_id": "0", "score": "0"}.get(name, "false")) == default


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
@pytest.mark.parametrize(("rule", "prefix"), [("identity", False), ("identity", True), ("nmt_nfkc", False)])
def test_reads_what_a_model_was_trained_with(kind, rule, prefix):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the lazy dog and the quick fox"] * 9),
        model_writer=model,
        model_type=kind,
        vocab_size=300 if kind != "char" else 280,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    spec = read_spec(model.getvalue())
    assert (spec.is_unigram, spec.is_bpe, spec.byte_fallback) == (kind == "unigram", kind == "bpe", True)
    assert spec.changes_text == (rule != "identity" or prefix)
    pieces, theirs = read_pieces(model.getvalue()), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    numbers = range(theirs.get_piece_size())
    assert pieces.scored == [(theirs.id_to_piece(i), theirs.get_score(i)) for i in numbers]
    assert pieces.symbols == [(theirs.id_to_piece(i), True) for i in numbers if theirs.is_control(i)]
    assert (pieces.unknown, pieces.begin, pieces.end) == ((0, "<unk>"), "<s>", "</s>")
    assert bool(pieces.charsmap) == (rule != "identity")
