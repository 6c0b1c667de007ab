"""GPT: the published size, impossible configs. (Numbers: tests/interop/test_openai_gpt.py.)"""

import pytest

from transformer.errors import UserError
from transformer.models.gpt1 import GPT1Config


def test_the_published_size():
    assert GPT1Config().num_params() == 116_534_784


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10, "num_heads": 3}, "num_heads 3 does not divide width 10"),
        ({"context_length": 0}, "context_length is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"activation": "gleu"}, "unknown activation 'gleu'"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        GPT1Config(**fields)
