"""Energy and CO2 of a study: as codecarbon measured them while it ran, or an estimate from devices and hours.

codecarbon (pip install -e '.[energy]') reads the counters of the machine's processors where it may. An estimate assumes
that devices draw their rated power, and knows neither hosts nor cooling: it gives the order of magnitude.
"""

import contextlib
import csv
import importlib.util
import io
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from transformer.chips import chip_of
from transformer.errors import UserError

MEASURED = "emissions.csv"
"""File that codecarbon writes into a study's folder: a row each time that the study was run."""
WORLD_MEAN = 481.0
"""g CO2-equivalent a kWh: the world's electricity in 2023 (Ember, "Global Electricity Review 2024")."""
CORE_WATTS = 7.0
"""Power of a processor core: an Intel Xeon Platinum 8380 is rated 270 W for 40 cores, an AMD EPYC 7763 280 W for 64."""


class Power(NamedTuple):
    """The power that one device draws, and where the figure is from."""

    watts: float
    source: str


class Energy(NamedTuple):
    """The energy that a study took."""

    kwh: float
    co2: float
    """kg of CO2-equivalent."""


def power(kind: str, cores: int) -> Power | None:
    """Returns the power of a device of JAX's `device_kind`; None for one whose figure is not known.

    Args:
      kind: such as "NVIDIA A100-SXM4-40GB", or "cpu".
      cores: cores that a run computed on, where it was on a processor.
    """
    if kind == "cpu":
        return Power(CORE_WATTS * cores, f"{cores} processor cores of {CORE_WATTS:g} W")
    chip = chip_of(kind)
    if chip is None or chip.watts is None:
        return None
    return Power(chip.watts, f"{chip.kinds[0]}: {chip.watts:g} W, its rated power")


def estimate(device_hours: float, watts: float, carbon: float = WORLD_MEAN) -> Energy:
    """Returns the energy, device hours times power, and its CO2.

    Args:
      device_hours: hours summed over devices.
      watts: power of a device.
      carbon: g CO2-equivalent a kWh.
    """
    kwh = device_hours * watts / 1000
    return Energy(kwh, kwh * carbon / 1000)


def measured(folder: epath.PathLike) -> Energy | None:
    """Returns the energy that codecarbon measured, summed over all times that the study was run; None if it did not.

    Raises:
      UserError: the file is not codecarbon's.
    """
    path = epath.Path(folder) / MEASURED
    if not path.exists():
        return None
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        return Energy(sum(float(row["energy_consumed"]) for row in rows), sum(float(row["emissions"]) for row in rows))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not codecarbon's ({type(error).__name__}: {error}): move it away") from error


@contextlib.contextmanager
def measuring(folder: epath.PathLike, country: str) -> Iterator[None]:
    """Has codecarbon measure this whole machine for as long as the context lasts, and add a row to `MEASURED`.

    Args:
      folder: STUDY; local.
      country: three letters of ISO 3166, such as FRA, for the carbon intensity; nothing is looked up online.

    Raises:
      UserError: codecarbon is not installed.
    """
    if importlib.util.find_spec("codecarbon") is None:
        raise UserError("measuring energy needs codecarbon: pip install -e '.[energy]'")
    from codecarbon import OfflineEmissionsTracker  # pyright: ignore[reportMissingImports]

    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        project_name=epath.Path(folder).name,
        output_dir=str(folder),
        output_file=MEASURED,
        log_level="error",
        allow_multiple_runs=True,
    )
    tracker.start()
    try:
        yield
    finally:
        tracker.stop()
