"""BART and Marian: the published sizes. (Parity: tests/interop; the rest: test_encoder_decoder.py.)"""

import pytest

from transformer.models.bart import BartConfig
from transformer.models.marian import MarianConfig


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BartConfig(), 139_420_416),
        (
            BartConfig(
                width=1024,
                num_encoder_layers=12,
                num_decoder_layers=12,
                num_encoder_heads=16,
                num_decoder_heads=16,
                encoder_mlp_width=4096,
                decoder_mlp_width=4096,
            ),
            406_291_456,
        ),
    ],
    ids=["base", "large"],
)
def test_published_sizes_of_bart(config, count):
    assert config.num_params() == count


def test_published_size_of_marian():
    """OPUS-MT English-German, as Transformers counts: two sinusoid tables are parameters, the logits' bias is none."""
    config = MarianConfig()
    sinusoids = 2 * config.context_length * config.width
    assert config.num_params() + sinusoids - config.vocab_size == 74_410_496
