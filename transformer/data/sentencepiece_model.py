"""What a SentencePiece model says of itself: the few fields of its protocol buffer that decide where texts can be cut.

SentencePiece's own description of that buffer is generated code, which a protobuf older than the one that generated it
refuses to load. So the fields are described here, by their numbers in `sentencepiece_model.proto`.
"""

import functools
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_UNIGRAM, _BPE = 1, 2

_FieldType = descriptor_pb2.FieldDescriptorProto
# Message -> field: (number, type, default).
_FIELDS: dict[str, dict[str, tuple[int, Any, str]]] = {
    "TrainerSpec": {
        "model_type": (3, _FieldType.TYPE_INT32, str(_UNIGRAM)),  # an enumeration, which is written as a number
        "byte_fallback": (35, _FieldType.TYPE_BOOL, "false"),
    },
    "NormalizerSpec": {
        "precompiled_charsmap": (2, _FieldType.TYPE_BYTES, ""),
        "add_dummy_prefix": (3, _FieldType.TYPE_BOOL, "true"),
        "remove_extra_whitespaces": (4, _FieldType.TYPE_BOOL, "true"),
    },
    "ModelProto": {
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
            field = described.field.add(name=name, number=number, label=_FieldType.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _FieldType.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                field.type, field.default_value = kind, default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.ModelProto"))
