"""The tools for muP: what they refuse, what they print, and that what they draw can be drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tools import coordinate_check, learning_rates
from transformer.errors import UserError


@pytest.mark.parametrize(
    ("main", "args", "message"),
    [
        (coordinate_check.main, ["--widths", "64"], "give two --widths or more"),
        (coordinate_check.main, ["--steps", "0"], "--steps, --seeds and --layers of at least 1"),
        (learning_rates.main, ["--widths", "64"], "give two --widths or more"),
        (learning_rates.main, ["--exponents", "-5", "-4"], "--exponents at least two apart"),
        (learning_rates.main, ["--optimizer", "lamb"], "lamb"),
    ],
)
def test_refuses(main, args, message):
    with pytest.raises(UserError, match=message):
        main(args)


@pytest.mark.parametrize(
    ("preset", "vocab_size", "seq_len"),
    [("gpt-python", 384, 64), ("whisper-tones", 384, 8), ("clip-shapes", 384, 12), ("vit-digits", None, 64)],
)
def test_whatever_a_preset_reads_is_made_quick(preset, vocab_size, seq_len):
    experiment = learning_rates.quick(learning_rates.Command(preset=preset, widths=(32, 64), steps=7))
    assert experiment.model.vocab_size == vocab_size
    assert experiment.train.seq_len == seq_len
    assert experiment.train.steps == 7


def test_the_table_has_the_exponents(capsys):
    """Sizes that go as the width's square root, and changes as its inverse."""
    measured = {
        width: {name: np.array([[1.0, 0.0], [width**0.5, 1 / width]]) for name in ("stream 1", "scores 1", "logits")}
        for width in (64, 256)
    }
    coordinate_check.print_table("muP", measured)
    rows = capsys.readouterr().out.strip().splitlines()
    assert rows[0].split() == ["muP,", "mean", "|x|", "64", "256", "slope", "of", "change"]
    assert rows[1].split() == ["stream", "1", "8", "16", "+0.50", "-1.00"]
    coordinate_check.draw(Figure().subplots(1, 3), "muP", measured)


def test_the_shift_is_told(capsys):
    losses = {width: {2.0**k: (k + 6 + width / 64) ** 2 for k in range(-10, -2)} for width in (64, 128)}
    assert learning_rates.tell("standard", losses) == "best rate x 2^-1.00 a doubling"
    assert "standard, width 64: best learning rate 7.81e-03" in capsys.readouterr().out
    learning_rates.draw(Figure().subplots(), "standard", losses)
    assert learning_rates.tell("standard", {64: {0.1: 1.0, 0.2: 2.0, 0.4: 3.0}}) == "best rates at the edge"
    assert "width 64: best learning rate is at the edge of those tried" in capsys.readouterr().out
