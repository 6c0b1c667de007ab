"""What a SentencePiece model says of itself: its pieces, and the few fields of its protocol buffer that decide ids.

SentencePiece's own description of that buffer is generated code, which a protobuf older than the one that generated it
refuses to load. So the fields are described here, by their numbers in `sentencepiece_model.proto`.
"""

import functools
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_UNIGRAM, _BPE = 1, 2

_FieldType = descriptor_pb2.FieldDescriptorProto
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
# Message -> field: (number, type, default). Enumerations are written as numbers.
_FIELDS: dict[str, dict[str, tuple[int, Any, str]]] = {
    "Piece": {
        "piece": (1, _FieldType.TYPE_STRING, ""),
        "score": (2, _FieldType.TYPE_FLOAT, "0"),
        "type": (3, _FieldType.TYPE_INT32, str(_NORMAL)),
    },
    "TrainerSpec": {
        "model_type": (3, _FieldType.TYPE_INT32, str(_UNIGRAM)),
        "byte_fallback": (35, _FieldType.TYPE_BOOL, "false"),
        "unk_id": (40, _FieldType.TYPE_INT32, "0"),
        "bos_id": (41, _FieldType.TYPE_INT32, "1"),
        "eos_id": (42, _FieldType.TYPE_INT32, "2"),
        "unk_piece": (45, _FieldType.TYPE_STRING, "<unk>"),
        "bos_piece": (46, _FieldType.TYPE_STRING, "<s>"),
        "eos_piece": (47, _FieldType.TYPE_STRING, "</s>"),
    },
    "NormalizerSpec": {
        "precompiled_charsmap": (2, _FieldType.TYPE_BYTES, ""),
        "add_dummy_prefix": (3, _FieldType.TYPE_BOOL, "true"),
        "remove_extra_whitespaces": (4, _FieldType.TYPE_BOOL, "true"),
    },
    "ModelProto": {
        "pieces": (1, "Piece", ""),
        "trainer_spec": (2, "TrainerSpec", ""),
        "normalizer_spec": (3, "NormalizerSpec", ""),
    },
}


class ModelSpec(NamedTuple):
    """The settings that a model was trained with."""

    is_unigram: bool
    is_bpe: bool
    byte_fallback: bool
    """Whether a character that no piece has becomes its bytes."""
    changes_text: bool
    """Whether a text is not encoded as it is: characters are replaced, a space is put before it, or spaces are left
    out."""


class Pieces(NamedTuple):
    """A model's vocabulary, in the order of ids."""

    scored: list[tuple[str, float]]
    """Each piece with its score."""
    symbols: list[tuple[str, bool]]
    """Control symbols (True), which no text encodes to, and a user's own (False), found before others."""
    unknown: tuple[int, str]
    """The id and the piece of what no piece has."""
    begin: str | None
    end: str | None
    charsmap: bytes
    """The normaliser's table of replacements, compiled; empty for the identity."""


def read_pieces(model: bytes) -> Pieces:
    """Returns the vocabulary of a `.model` file's content; raises `DecodeError` if it is none."""
    proto = _model_proto().FromString(model)
    trainer = proto.trainer_spec
    return Pieces(
        scored=[(piece.piece, piece.score) for piece in proto.pieces],
        symbols=[(p.piece, p.type == _CONTROL) for p in proto.pieces if p.type in (_CONTROL, _USER_DEFINED)],
        unknown=(trainer.unk_id, trainer.unk_piece),
        begin=(trainer.bos_piece or "<s>") if trainer.bos_id >= 0 else None,
        end=(trainer.eos_piece or "</s>") if trainer.eos_id >= 0 else None,
        charsmap=proto.normalizer_spec.precompiled_charsmap,
    )


def read_spec(model: bytes) -> ModelSpec:
    """Returns what a `.model` file's content says; raises `google.protobuf.message.DecodeError` if it is none."""
    proto = _model_proto().FromString(model)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    changes = normalizer.precompiled_charsmap or normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces
    return ModelSpec(
        is_unigram=trainer.model_type == _UNIGRAM,
        is_bpe=trainer.model_type == _BPE,
        byte_fallback=trainer.byte_fallback,
        changes_text=bool(changes),
    )


@functools.cache
def _model_proto() -> Any:
    """Returns the class of the message; fields that are not described here are skipped when it is read."""
    file = descriptor_pb2.FileDescriptorProto(
        name="transformer/sentencepiece_model.proto", package="transformer.sentencepiece", syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, default) in fields.items():
            label = _FieldType.LABEL_REPEATED if name == "pieces" else _FieldType.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _FieldType.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                field.type, field.default_value = kind, default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.ModelProto"))
