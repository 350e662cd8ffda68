"""From a trained model and a budget to a schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.choose import Choice
from cropr_mm.budget.cost import CostModel, fit_cost
from cropr_mm.budget.damage import DamageMeter, Losses, interval
from cropr_mm.budget.ladder import drawn, probes, token_counts
from cropr_mm.budget.timing import ShowRounds, time_plans
from cropr_mm.budget.work import Plan, work_of
from cropr_mm.engine.preflight import SetupError
from cropr_mm.profiling.latency import MAX_LOAD

_TRIED = 3  # plans of the frontier that are measured whole
_CHECKS = 6  # drawn plans that predictions are tried on


@dataclass(frozen=True)
class Budget:
    """What is asked for; exactly one is given.

    Attributes:
        target_ms: Most milliseconds of one call of the encoder.
        speedup: How many times faster than the dense encoder.
        max_drop: Largest growth of the training loss, as a share of the dense model's.

    Raises:
        ValueError: If none or several are given, or one makes no sense.
    """

    target_ms: float | None = None
    speedup: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                "expected one of target_ms, speedup and max_drop, got "
                + (", ".join(given) or "none")
            )
        if min(given.values()) <= 0 or (self.speedup is not None and self.speedup <= 1):
            raise ValueError(f"expected a positive budget, a speed-up above 1, got {given}")

    def __str__(self) -> str:
        (text,) = (
            f"--{name.replace('_', '-')} {value:g}"
            for name, value in vars(self).items()
            if value is not None
        )
        return text


class Cost(NamedTuple):
    """Fitted cost, and how well it predicts.

    Attributes:
        model: The fit.
        dense_ms: Measured time of the dense encoder.
        checks: Predicted and measured milliseconds of plans that were not fitted to.
        load: Cores that other processes kept busy meanwhile.
    """

    model: CostModel
    dense_ms: float
    checks: list[tuple[float, float]]
    load: float

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {**self._asdict(), "model": self.model.as_dict()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Cost":
        """The inverse of :meth:`as_dict`."""
        checks = [(predicted, measured) for predicted, measured in record["checks"]]
        model = CostModel.from_dict(record["model"])
        return cls(model, record["dense_ms"], checks, record["load"])

    def text(self, batch: int, form: str) -> str:
        """What was measured, in lines."""
        errors = self.errors
        lines = [
            f"dense encoder  {self.dense_ms:.1f} ms a call of {batch} images, {form}",
            f"cost model     errors on {len(errors)} plans it was not fitted to: median "
            f"{median(errors):.1%}, largest {max(errors):.1%}",
        ]
        return "\n".join([*lines, *not_idle(self.load)])

    @property
    def errors(self) -> list[float]:
        """Relative errors of the predictions, without sign."""
        return [abs(predicted / measured - 1) for predicted, measured in self.checks]


def not_idle(load: float) -> list[str]:
    """A line for times that were measured beside other work; none on an idle machine."""
    return [f"NOT IDLE, load {load:.2f}: these times do not count"] if load > MAX_LOAD else []


class Candidate(NamedTuple):
    """A plan that was measured whole.

    Attributes:
        plan: Patch tokens kept by 0-based block.
        predicted_ms: Time by the cost model.
        ms: Measured time.
        losses: Loss of each batch.
        growth: Growth of the mean loss over the dense model's, as a share.
        interval: Its 95 % interval over batches.
    """

    plan: Plan
    predicted_ms: float
    ms: float
    losses: Losses
    growth: float
    interval: tuple[float, float]


def measure_cost(
    backbone: ReducingBackbone,
    form: str,
    images: torch.Tensor,
    rounds: int,
    show_rounds: ShowRounds,
) -> Cost:
    """Time the encoder under a few plans, and fit what tokens cost.

    Args:
        backbone: Encoder with reducers where steps may stand.
        form: One of :data:`cropr_mm.budget.timing.FORMS`.
        images: A batch of the size that will run.
        rounds: Timed calls of each plan.
        show_rounds: Shows progress.
    """
    counts = token_counts(backbone)
    sites = sorted(int(block) for block in backbone.reducers)
    fitted, tried = probes(sites, counts), drawn(sites, counts, _CHECKS)
    plans = {f"fit {i}": plan for i, plan in enumerate(fitted)}
    plans |= {f"check {i}": plan for i, plan in enumerate(tried)}
    latencies = time_plans(backbone, plans, form, images, rounds, show_rounds)
    works = {name: work_of(backbone, plan) for name, plan in plans.items()}
    known = [name for name in plans if name.startswith("fit")]
    model = fit_cost([works[n] for n in known], [latencies.median(n) for n in known], counts)
    checks = [
        (model.predict(works[name]), latencies.median(name)) for name in plans if name not in known
    ]
    return Cost(model, latencies.median("fit 0"), checks, latencies.load)


def measure_damage(
    meter: DamageMeter, counts: Sequence[int], show_rounds: ShowRounds
) -> dict[tuple[int, int], float]:
    """Growth of the loss for one step at each block to each count.

    Args:
        meter: Measures it.
        counts: From :func:`.ladder.token_counts`.
        show_rounds: Shows progress.
    """
    sites = sorted(int(block) for block in meter.backbone.reducers)
    steps = [(site, count) for site in sites for count in counts[1:]]
    found = {}
    with show_rounds("damage of single steps", len(steps)) as on_round:
        for done, (site, count) in enumerate(steps, start=1):
            found[site, count] = meter.growth({site: count})
            on_round(done)
    return found


def pick(frontier: Sequence[Choice], budget: Budget, dense_ms: float) -> list[Choice]:
    """Plans of the frontier that meet a budget as predicted, best first.

    Args:
        frontier: From :func:`.choose.find_frontier`.
        budget: What is asked for.
        dense_ms: Measured time of the dense encoder.

    Raises:
        SetupError: If the budget cannot be met, with the nearest that can, or is met without
            pruning.
    """
    if not any(choice.plan for choice in frontier):
        raise SetupError(
            f"no pruned plan is predicted to be faster than the dense encoder's {dense_ms:.1f} ms: "
            "images have too few tokens for steps to pay in this form"
        )
    if budget.max_drop is not None:
        within = [choice for choice in frontier if choice.damage <= budget.max_drop]
        pruned = sorted((c for c in within if c.plan), key=lambda choice: choice.ms)
        if not pruned:
            least = min((c for c in frontier if c.plan), key=lambda choice: choice.damage)
            raise SetupError(
                f"no plan stays within {budget.max_drop:.1%} of loss; the least damaging one is "
                f"predicted to cost {least.damage:.1%} at {least.ms:.1f} ms (dense {dense_ms:.1f})"
            )
        return pruned[:_TRIED]
    target = target_ms(budget, dense_ms)
    if dense_ms <= target:
        raise SetupError(
            f"the dense encoder takes {dense_ms:.1f} ms, within the target of {target:.1f} ms: "
            "nothing has to be pruned"
        )
    within = [choice for choice in frontier if choice.ms <= target and choice.plan]
    if not within:
        fastest = min(frontier, key=lambda choice: choice.ms)
        raise SetupError(
            f"no plan reaches {target:.1f} ms; the fastest is predicted to take "
            f"{fastest.ms:.1f} ms, {dense_ms / fastest.ms:.2f} times faster than the dense "
            f"encoder's {dense_ms:.1f} ms"
        )
    return sorted(within, key=lambda choice: choice.damage)[:_TRIED]


def target_ms(budget: Budget, dense_ms: float) -> float:
    """Time that a budget of time or speed allows."""
    assert budget.max_drop is None, "a budget of damage allows any time"
    return budget.target_ms if budget.target_ms is not None else dense_ms / (budget.speedup or 1.0)


def try_whole(
    plans: Mapping[str, Plan],
    meter: DamageMeter,
    cost: Cost,
    form: str,
    images: torch.Tensor,
    rounds: int,
    show_rounds: ShowRounds,
) -> tuple[dict[str, Candidate], float]:
    """Measure whole plans: time beside the dense encoder, and damage.

    Args:
        plans: By name; 'dense' is added.
        meter: Measures the damage, on images that the frontier was not made from.
        cost: Predicts times.
        form: As for :func:`measure_cost`.
        images: As there.
        rounds: As there.
        show_rounds: Shows progress.

    Returns:
        The candidates by name, and how many cores other processes kept busy meanwhile.
    """
    plans = {"dense": {}, **plans}
    latencies = time_plans(meter.backbone, plans, form, images, rounds, show_rounds)
    found = {}
    for name, plan in plans.items():
        losses = meter.losses(plan)
        found[name] = Candidate(
            plan=plan,
            predicted_ms=cost.model.predict(work_of(meter.backbone, plan)),
            ms=latencies.median(name),
            losses=losses,
            growth=float(losses.mean() / meter.dense.mean() - 1),
            interval=interval(losses, meter.dense),
        )
    return found, latencies.load
