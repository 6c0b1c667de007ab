"""Outlook: what a whole run will take, from the time of its step: days, money, energy, and what failures cost."""

import dataclasses

from transformer.checkpoint.interval import expected_goodput, young_daly
from transformer.chips import CHIPS
from transformer.planning.prediction import Prediction

TO_HOST = 20e9
"""Bytes a second that a device copies to its host's memory: the loop waits for that much of a save, the rest goes on
beside it. PCI Express 4.0 carries 32 GB/s a slot of 16 lanes each way, 5.0 twice that; no more is counted on."""
RESTART = 600.0
"""Seconds from a failure to the first step after it: noticing, starting, compiling, restoring."""


@dataclasses.dataclass(frozen=True)
class Outlook:
    """A whole run."""

    steps: int
    tokens: float
    seconds: float
    """Seconds of steps alone."""
    devices: int
    save_seconds: float
    """Seconds that the loop waits for one save."""
    restart_seconds: float
    mtbf: float | None
    """Mean seconds between failures of all machines together; None: none is counted on."""
    watts: float | None
    """Power of a device; None: not known."""
    price: float | None
    """Price of a device for an hour, in whatever currency; None: not given."""

    @property
    def interval(self) -> float | None:
        """Seconds between saves that waste the least; None without failures."""
        return None if self.mtbf is None else young_daly(self.save_seconds, self.mtbf)

    @property
    def goodput(self) -> float:
        """Share of the wall time that makes steps which last."""
        if self.mtbf is None or self.interval is None:
            return 1.0
        return expected_goodput(self.save_seconds, self.mtbf, self.interval, self.restart_seconds)

    @property
    def wall(self) -> float:
        """Seconds from the start to the end."""
        return self.seconds / self.goodput

    @property
    def device_hours(self) -> float:
        return self.wall / 3600 * self.devices

    @property
    def kwh(self) -> float | None:
        """Energy of the devices at their rated power, without hosts and cooling."""
        return None if self.watts is None else self.device_hours * self.watts / 1000

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.device_hours * self.price


def outlook(
    prediction: Prediction,
    *,
    price: float | None = None,
    watts: float | None = None,
    save_seconds: float | None = None,
    restart_seconds: float = RESTART,
) -> Outlook:
    """Returns what the run of a predicted step will take.

    Args:
      prediction: the step; its experiment says how many there are, and how often machines fail
        (`checkpoint.mtbf_hours`).
      price: of a device for an hour; None: not known.
      watts: of a device; None: what is published.
      save_seconds: that the loop waits for a save; None: as long as a device's state takes to its host.
      restart_seconds: from a failure to the first step after it.
    """
    experiment, chip = prediction.experiment, CHIPS.get(prediction.topology.chip)
    steps, mtbf = experiment.train.steps, experiment.checkpoint.mtbf_hours
    return Outlook(
        steps=steps,
        tokens=float(steps) * experiment.train.batch_size * experiment.lengths.total,
        seconds=steps * prediction.time.total,
        devices=prediction.topology.devices,
        save_seconds=prediction.memory.state / TO_HOST if save_seconds is None else save_seconds,
        restart_seconds=restart_seconds,
        mtbf=None if mtbf is None else 3600 * mtbf,
        watts=watts if watts is not None else None if chip is None else chip.watts,
        price=price,
    )
