"""Energy: the estimate against a sum by hand, what codecarbon left, and what is said where there is nothing."""

import csv
import importlib.util

import pytest

from transformer.errors import UserError
from transformer.scaling.reports import energy

ROW = {"duration": "3.97", "emissions": "1.7246735136134525e-06", "energy_consumed": "3.077630781444088e-05"}
"""Rows that codecarbon 3.3.2 wrote over a few seconds; its file has more columns."""


def test_by_hand():
    # Eight H100s for two hours and a half: 20 device hours x 700 W = 14 kWh; x 481 g = 6.734 kg.
    power = energy.power("NVIDIA H100 80GB HBM3", cores=64)
    assert power.watts == 700
    took = energy.estimate(8 * 2.5, power.watts)
    assert took.kwh == pytest.approx(14.0)
    assert took.co2 == pytest.approx(6.734)
    assert energy.estimate(20, 700, carbon=56).co2 == pytest.approx(0.784)


def test_power_by_kind():
    assert energy.power("cpu", cores=16).watts == 112
    assert energy.power("NVIDIA L40S", 1).watts == 350
    assert energy.power("NVIDIA L4", 1).watts == 72
    assert energy.power("TPU v4", 1).watts == 192
    assert energy.power("TPU v6 lite", 1) is None


def test_codecarbon_adds_a_row_each_time(tmp_path):
    assert energy.measured(tmp_path) is None
    with (tmp_path / energy.MEASURED).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["timestamp", *ROW])
        writer.writeheader()
        writer.writerows([ROW, ROW | {"energy_consumed": "1.5", "emissions": "0.75"}])
    found = energy.measured(tmp_path)
    assert found.kwh == pytest.approx(1.50003077630781)
    assert found.co2 == pytest.approx(0.7500017246735136)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "emissions,energy_consumed\n1\n", "emissions,energy_consumed\n1,x\n"])
def test_another_file_is_one_line(tmp_path, text):
    (tmp_path / energy.MEASURED).write_text(text)
    with pytest.raises(UserError, match="emissions.csv is not codecarbon's"):
        energy.measured(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is not None, reason="codecarbon is installed")
def test_without_codecarbon_it_says_what_to_install(tmp_path):
    with pytest.raises(UserError, match="pip install -e '.\\[energy\\]'"), energy.measuring(tmp_path, "FRA"):
        pass


@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is None, reason="codecarbon is not installed: [energy]")
@pytest.mark.filterwarnings("ignore")
def test_codecarbon_measures(tmp_path):
    for _ in range(2):
        with energy.measuring(tmp_path, "FRA"):
            sum(range(1_000_000))
    found = energy.measured(tmp_path)
    assert 0 < found.co2 < found.kwh  # France: under 1 kg a kWh
