"""Early stopping: a run ends where its evaluations have become no better for some time (Prechelt 1998)."""

from collections.abc import Iterable

from transformer.checkpoint import CheckpointConfig
from transformer.cluster.agreement import lead_does
from transformer.errors import UserError
from transformer.training import metrics
from transformer.training.evaluation import Evaluation
from transformer.training.run import Run


class Patience:
    """Counts the evaluations in a row that did not better the best.

    Args:
      most: how many end the run; None: none do.
      config: names the figure that tells which is better.
      earlier: that figure of each evaluation that was made before.
    """

    def __init__(self, most: int | None, config: CheckpointConfig, earlier: Iterable[float] = ()):
        self._most, self._config = most, config
        self._best: float | None = None
        self._stale = 0
        for value in earlier:
            self._take(value)

    @classmethod
    def of(cls, most: int | None, config: CheckpointConfig, run: Run, step: int) -> "Patience":
        """Returns the patience of a run that goes on after `step`. All processes must call it."""
        if most is None:
            return cls(None, config)

        def earlier() -> list[float]:
            rows = metrics.read_rows(run.metrics) if run.metrics.exists() else []
            return [row[config.best] for row in rows if row["step"] <= step and row.get(config.best) is not None]

        return cls(most, config, lead_does("what earlier evaluations found", earlier))

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return self._most is not None and self._stale >= self._most

    def evaluated(self, evaluation: Evaluation) -> None:
        """Takes another evaluation; UserError where it does not have the figure."""
        if self._most is None:
            return
        row = evaluation.row()
        if self._config.best not in row:
            raise UserError(
                f"--checkpoint.best {self._config.best}: what --train.patience looks at is none of the figures of an "
                f"evaluation, which are {', '.join(row)}"
            )
        self._take(row[self._config.best])

    def reason(self) -> str:
        """Returns why the run ends, a line."""
        return f"{self._config.best} was no better than {self._best:.4f} in {self._stale} evaluations in a row"

    def _take(self, value: float) -> None:
        sign = 1 if self._config.best_is == "highest" else -1
        if self._best is None or sign * value > sign * self._best:
            self._best, self._stale = value, 0
        else:
            self._stale += 1
