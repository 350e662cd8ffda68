"""The search as a program: each part in turn, then what it found."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.choose import Choice, find_frontier
from cropr_mm.budget.damage import DamageMeter
from cropr_mm.budget.families import FAMILIES, hand_made
from cropr_mm.budget.kept import kept
from cropr_mm.budget.report import (
    better_by,
    draw_search,
    format_candidates,
    write_config,
    write_record,
)
from cropr_mm.budget.search import (
    Budget,
    Candidate,
    Cost,
    measure_cost,
    measure_damage,
    not_idle,
    pick,
    target_ms,
    try_whole,
)
from cropr_mm.budget.searched_model import load_searched
from cropr_mm.budget.work import Plan
from cropr_mm.engine.checkpoint_io import existing_checkpoint
from cropr_mm.engine.console import print_files, show_rounds
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError, torch_device
from cropr_mm.engine.training_batches import training_batches
from cropr_mm.profiling.environment import git_commit, machine_name, versions

_AGAIN = "found again"  # name of the plan that is tried where no other meets the budget
_TOLERANCE = 1.02  # of a target, which times scatter about


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        form: In which encoders are timed, see :data:`cropr_mm.budget.timing.FORMS`.
        batch: Images of one call.
        images: Training images.
        reducer: Method, or None for the config's own.
        rounds: Timed calls of each plan.
        device: Where to run; None for a GPU where there is one.

    Raises:
        ValueError: If a number is too small.
    """

    form: str = "eager"
    batch: int = 1
    images: int = 128
    reducer: str | None = None
    rounds: int = 10
    device: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.images < 2 or self.rounds < 1:
            raise ValueError(
                "expected batch >= 1, images >= 2 and rounds >= 1, got "
                f"{self.batch}, {self.images} and {self.rounds}"
            )


def search_schedule(
    cfg: Config,
    checkpoint: str,
    budget: Budget,
    out: Path,
    settings: Settings,
    inherit: bool = True,
) -> dict[str, Candidate]:
    """Search, print what was found, and write config, record and picture.

    Args:
        cfg: From :func:`cropr_mm.engine.config.load_config`.
        checkpoint: Of exactly this model.
        budget: What is asked for.
        out: Folder for the results.
        settings: How to search.
        inherit: Whether the config's file says all of ``cfg``, so that the found config inherits
            from it; otherwise that one is complete.

    Returns:
        All plans that were measured whole, by name.

    Raises:
        SetupError: If the parts do not fit, or the budget cannot be met or needs no pruning.
    """
    existing_checkpoint(checkpoint)
    check_writable("--out", out, folder=True)
    files = {name: out / file for name, file in _FILES.items()}
    if files["config"].resolve() == Path(cfg.filename).resolve():
        raise SetupError(f"{cfg.filename} would be overwritten: expected another --out, got {out}")
    device = torch_device(settings.device)
    searched = load_searched(cfg, checkpoint, settings.reducer)
    model, backbone = searched.model.to(device), searched.backbone
    batches = training_batches(cfg, model, settings.images)
    half = len(batches) // 2
    if not half:
        size = cfg.train_dataloader.batch_size
        raise SetupError(
            f"expected --images of two batches of {size} at least, {2 * size}, got "
            f"{settings.images}"
        )
    images = torch.randn(settings.batch, backbone.in_channels, *backbone.native_size, device=device)
    about = dict(machine=machine_name(device), versions=versions(), **asdict(settings))
    encoder = dict(cfg.model.backbone, init_cfg=None, **searched.entry)

    def cost_record() -> dict[str, Any]:
        return measure_cost(backbone, settings.form, images, settings.rounds, show_rounds).as_dict()

    timed = {key: value for key, value in about.items() if key not in ("images", "reducer")}
    timed |= dict(encoder=encoder, threads=torch.get_num_threads())
    record = kept(out / "cost.json", timed, cost_record, lambda cost: not not_idle(cost["load"]))
    cost = Cost.from_dict(record)
    print(cost.text(settings.batch, settings.form))
    counts = list(cost.model.counts)[::-1]
    if budget.max_drop is None:  # whether it can be met is known before any damage is
        pick(find_frontier(backbone, cost.model, counts, {}), budget, cost.dense_ms)

    def damage_record() -> list[list[float]]:
        damage = measure_damage(DamageMeter(model, backbone, batches[:half]), counts, show_rounds)
        return [[block, tokens, growth] for (block, tokens), growth in damage.items()]

    seen = dict(
        model=cfg.model,
        data=cfg.train_dataloader,
        checkpoint=checkpoint,
        written=os.stat(checkpoint).st_mtime_ns,
        images=settings.images,
        encoder=encoder,
    )
    rows = kept(out / "damage.json", seen, damage_record)
    damage = {(int(block), int(tokens)): growth for block, tokens, growth in rows}
    frontier = find_frontier(backbone, cost.model, counts, damage)
    best = pick(frontier, budget, cost.dense_ms)
    target = best[0].ms if budget.max_drop is not None else target_ms(budget, cost.dense_ms)
    plans = {f"found {i}": choice.plan for i, choice in enumerate(best, start=1)}
    plans |= hand_made(backbone, cost.model, target)
    if searched.own:
        plans["config"] = searched.own
    meter = DamageMeter(model, backbone, batches[half:])
    trial = partial(
        try_whole,
        meter=meter,
        cost=cost,
        form=settings.form,
        images=images,
        rounds=settings.rounds,
        show_rounds=show_rounds,
    )
    candidates, load = trial(plans)
    chosen, is_met = choose(candidates, budget)
    if not is_met:
        if budget.max_drop is None:
            again = next_faster(frontier, candidates, target_ms(budget, candidates["dense"].ms))
        else:
            again = next_gentler(frontier, candidates, budget.max_drop)
        if again is not None:
            print("no plan met the budget as measured; another one is tried")
            more, later_load = trial({_AGAIN: again.plan})
            # Times of two measurements compare by that of the dense encoder in both.
            pace = candidates["dense"].ms / more["dense"].ms
            candidates[_AGAIN] = more[_AGAIN]._replace(ms=pace * more[_AGAIN].ms)
            load = max(load, later_load)
            chosen, is_met = choose(candidates, budget)
    print(f"\n{format_candidates(candidates, counts[0], chosen)}", *not_idle(load), sep="\n")
    if not is_met:
        print(f"no plan met the budget as measured; {chosen} comes nearest")
    slow = [name for name in FAMILIES if name not in candidates]
    if slow:
        print(f"not among them: {', '.join(slow)}, too slow or not for this encoder")
    for name, other in candidates.items():
        if name in FAMILIES and name != chosen:
            print(f"loss of {chosen} against {name}: {better_by(candidates[chosen], other)}")

    write_config(
        files["config"],
        cfg,
        candidates[chosen],
        candidates["dense"].ms,
        searched.entry,
        shares_left(candidates[chosen].plan, counts[0], backbone, searched.learned),
        inherit,
        budget,
        is_met,
    )
    record = dict(
        **about,
        checkpoint=checkpoint,
        method=searched.entry["reducer"],
        commit=git_commit(),
        budget=asdict(budget),
        chosen=chosen,
        met=is_met,
    )
    write_record(files["report"], record, cost, frontier, candidates, load)
    draw_search(files["picture"], cost, frontier, candidates, f"{cfg.filename}, {settings.form}")
    print_files("\nSearched", files)
    return candidates


_FILES = {"config": "config.py", "report": "report.json", "picture": "frontier.png"}


def next_faster(
    frontier: Sequence[Choice], candidates: Mapping[str, Candidate], target: float
) -> Choice | None:
    """The least damaging plan that is in time if it is as much slower than predicted as others.

    Args:
        frontier: Predicted plans.
        candidates: Measured ones, none of them in time.
        target: Milliseconds that are allowed.

    Returns:
        A plan that was not measured yet; None where there is none.
    """
    pruned = [candidate for candidate in candidates.values() if candidate.plan]
    slower = min(candidate.ms / candidate.predicted_ms for candidate in pruned)
    measured = [candidate.plan for candidate in pruned]
    in_time = [c for c in frontier if c.ms * max(slower, 1.0) <= target and c.plan not in measured]
    return min(in_time, key=lambda choice: choice.damage, default=None)


def next_gentler(
    frontier: Sequence[Choice], candidates: Mapping[str, Candidate], max_drop: float
) -> Choice | None:
    """The fastest plan that is within a budget if it costs as much more than predicted as others.

    Args:
        frontier: Predicted plans.
        candidates: Measured ones, none of them within the budget.
        max_drop: Growth of the loss that is allowed.

    Returns:
        A plan that was not measured yet; None where there is none.
    """
    predicted = [
        (choice, c) for choice in frontier for c in candidates.values() if c.plan == choice.plan
    ]
    worse = max(
        (c.growth / choice.damage for choice, c in predicted if choice.damage > 0), default=1.0
    )
    measured = [candidate.plan for candidate in candidates.values()]
    within = [
        choice
        for choice in frontier
        if choice.damage * max(worse, 1.0) <= max_drop and choice.plan not in measured
    ]
    return min(within, key=lambda choice: choice.ms, default=None)


def shares_left(
    plan: Plan, total: int, backbone: ReducingBackbone, learned: bool
) -> dict[int, float]:
    """Share of the patch tokens that is left after each block with a step.

    Args:
        plan: Tokens kept by block.
        total: Patch tokens of the native image.
        backbone: The searched encoder.
        learned: Whether the steps have weights: then those that drop nothing stay, too, so that
            the checkpoint fits.
    """
    shares, left = {}, total
    for block in sorted(map(int, backbone.reducers)) if learned else plan:
        left = plan.get(block, left)
        shares[block] = round(left / total, 6)
    return shares


def choose(candidates: dict[str, Candidate], budget: Budget) -> tuple[str, bool]:
    """The pruned plan that serves a budget best, as measured whole, and whether it meets it.

    Times are compared with that of the dense encoder in the same measurement. Where no plan meets
    the budget, the nearest is the fastest, or for a budget of damage the least damaging
    one that is faster than dense.
    """
    dense_ms = candidates["dense"].ms
    pruned = {name: c for name, c in candidates.items() if c.plan}
    if budget.max_drop is not None:
        within = {
            n: c for n, c in pruned.items() if c.growth <= budget.max_drop and c.ms < dense_ms
        }
        if within:
            return min(within, key=lambda name: within[name].ms), True
        faster = {n: c for n, c in pruned.items() if c.ms < dense_ms} or pruned
        return min(faster, key=lambda name: faster[name].growth), False
    target = target_ms(budget, dense_ms)
    within = {n: c for n, c in pruned.items() if c.ms <= _TOLERANCE * target}
    if within:
        return min(within, key=lambda name: within[name].growth), True
    return min(pruned, key=lambda name: pruned[name].ms), False
