"""Names of chips: what a measurement is of."""

import platform

import pytest

from transformer.chips import CHIPS, chip_of, device_name


def test_of_several_beginnings_the_longest_counts():
    assert chip_of("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of("TPU v5p") is CHIPS["v5p"]
    assert chip_of("cpu") is None


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\n\nprocessor\t: 1\n",
         "AMD EPYC 9R14 (family 25, model 17)"),
        ("processor\t: 0\nBogoMIPS\t: 243.75\n\n", platform.machine()),
    ],
)  # fmt: skip
def test_a_cpu_is_named_by_its_processor(tmp_path, cpuinfo, name):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert device_name("cpu", tmp_path / "cpuinfo") == name
    assert device_name("NVIDIA H200", tmp_path / "cpuinfo") == "NVIDIA H200"


def test_another_system_has_no_list_of_processors(tmp_path):
    assert device_name("cpu", tmp_path / "none") == (platform.processor() or platform.machine())
