"""ViT: published counts, exact, and a masked autoencoder's sizes."""

import dataclasses

import pytest

from transformer.models.vit import ViTConfig

LARGE = {"width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (ViTConfig(), 86_567_656),
        (ViTConfig(**LARGE), 304_326_632),
        (ViTConfig(distillation_token=True), 87_338_192),  # deit-base-distilled-patch16-224
    ],
    ids=["b16", "l16", "deit"],
)
def test_published_sizes_have_their_parameters(config, count):
    assert config.num_params() == count


def test_a_masked_autoencoder_has_the_classifiers_backbone():
    classifier = ViTConfig(num_labels=10)
    masked = dataclasses.replace(classifier, head="masked_pixels")
    ours, theirs = (
        {path: leaf for path, leaf in config.parameters.items() if path.startswith("backbone/")}
        for config in (masked, classifier)
    )
    assert ours == theirs
    assert masked.fixed_length == 1 + 49
