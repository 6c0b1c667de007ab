"""Which checkpoints of a run are kept."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from transformer.checkpoint.config import CheckpointConfig


class Keeping:
    """Tells which checkpoints are to be kept no longer, by the config's rules."""

    def __init__(self, folder: epath.Path, config: CheckpointConfig):
        self._folder, self._config = folder, config
        self._metrics: dict[int, dict[str, float]] = {}

    def superfluous(self, steps: Sequence[int]) -> list[int]:
        """Returns those of a run's checkpoints, given in ascending order, that no rule keeps."""
        from orbax.checkpoint import v1 as ocp

        policies = ocp.training.preservation_policies
        config, sign = self._config, -1 if self._config.best_is == "lowest" else 1
        keep: list[Any] = [policies.LatestN(config.keep), policies.CustomSteps(config.at)]
        if config.keep_every:
            keep.append(policies.EveryNSteps(config.keep_every))
        if config.keep_best:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: sign * metrics[config.best],
                    n=config.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        infos = [_Info(step, self._metrics_of(step)) for step in steps]
        kept = policies.AnyPreservationPolicy(keep).should_preserve(infos, context=policies.PreservationContext())  # pyright: ignore[reportArgumentType]
        return [step for step, keep_it in zip(steps, kept, strict=True) if not keep_it]

    def _metrics_of(self, step: int) -> dict[str, float] | None:
        """Returns an evaluation's figures at a step, if `best` is among them."""
        if step not in self._metrics:
            path = self._folder / str(step) / "data" / "metrics.json"
            try:
                self._metrics[step] = json.loads(path.read_bytes())
            except (OSError, ValueError):
                self._metrics[step] = {}
        return self._metrics[step] if self._config.best in self._metrics[step] else None


@dataclasses.dataclass(frozen=True)
class _Info:
    """What Orbax's policies look at."""

    step: int
    metrics: dict[str, float] | None
    time: datetime.datetime = datetime.datetime.min
