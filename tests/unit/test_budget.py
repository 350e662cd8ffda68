"""What tokens cost is found from times, and the least damaging plans from both."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from cropr_mm import CroprViT
from cropr_mm.budget.choose import Choice, find_frontier
from cropr_mm.budget.cost import CostModel, fit_cost
from cropr_mm.budget.damage import interval
from cropr_mm.budget.families import hand_made
from cropr_mm.budget.kept import kept
from cropr_mm.budget.ladder import drawn, probes, token_counts
from cropr_mm.budget.run import choose, next_faster, next_gentler
from cropr_mm.budget.search import Budget, Candidate, measure_cost, pick
from cropr_mm.budget.work import Plan, segments, with_plan, work_of
from cropr_mm.engine.preflight import SetupError

COST = CostModel(
    counts=(8, 16, 32, 64),
    block_ms=(1.0, 1.5, 3.0, 6.5),
    pair_ms=200.0,
    step_ms=0.3,
    choice_ms=4.0,
    base_ms=2.0,
)


def encoder(window_size: int | None = None, img_size: int = 64, depth: int = 6) -> CroprViT:
    return CroprViT(
        arch=dict(embed_dim=16, depth=depth, num_heads=2, patch_size=8, img_size=img_size),
        with_cls_token=False,
        window_size=window_size,
        global_block_indexes=() if window_size is None else (2, 5),
        reducer=dict(type="cropr_mm.VariancePruner"),
        schedule=dict(
            type="cropr_mm.ExplicitTokens",
            num_keep=dict.fromkeys(range(depth - 2), (img_size // 8) ** 2),
        ),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    ).eval()


def test_counts_are_multiples_of_eight_or_whole_windows() -> None:
    assert token_counts(encoder()) == [64, 56, 48, 40, 32, 24, 16, 8]
    assert token_counts(encoder(window_size=4)) == [64, 48, 32, 16]


def test_no_room_for_a_step_is_an_error() -> None:
    with pytest.raises(SetupError, match="more than one step of 64 patch tokens, got 64"):
        token_counts(encoder(window_size=8))


def test_work_counts_live_tokens_keys_and_entering() -> None:
    work = work_of(encoder(window_size=4), {1: 32, 3: 16})
    assert work.live == (64, 64, 32, 32, 16, 64)
    assert work.keys == (16, 16, 32, 16, 16, 64)
    assert work.entering == (64, 32)
    assert segments(encoder()) == {0: [1], 1: [2], 2: [3], 3: [4]}


def test_parts_of_times_are_found_again() -> None:
    backbone = encoder(window_size=4)
    counts = token_counts(backbone)
    known = CostModel(tuple(sorted(counts)), (1.0, 2.5, 3.0, 6.0), 300.0, 0.4, 5.0, 2.0)
    plans = [*probes([0, 1, 2, 3], counts), *drawn([0, 1, 2, 3], counts, 12, seed=1)]
    works = [work_of(backbone, plan) for plan in plans]
    found = fit_cost(works, [known.predict(work) for work in works], counts)
    for plan in drawn([0, 1, 2, 3], counts, 10, seed=2):
        work = work_of(backbone, plan)
        assert found.predict(work) == pytest.approx(known.predict(work), rel=1e-3)
    assert CostModel.from_dict(found.as_dict()) == found


def test_frontier_is_that_of_all_plans() -> None:
    backbone = encoder()
    counts = [64, 32, 16, 8]
    rng = np.random.default_rng(0)
    damage = {(b, n): float((64 - n) / 64 / (b + 1) + 0.1 * rng.random()) for b in range(4) for n in counts[1:]}  # fmt: skip # noqa: E501
    for b in range(4):  # a smaller count never damages less
        for before, after in itertools.pairwise(counts[1:]):
            damage[b, after] = max(damage[b, after], damage[b, before])
    frontier = find_frontier(backbone, COST, counts, damage)
    assert frontier[0].plan == {}
    everything = [as_choice(backbone, counts, damage, kept) for kept in every_plan(counts)]
    for choice in frontier:
        ms, expected = evaluate(backbone, damage, choice.plan)
        assert (choice.ms, choice.damage) == (pytest.approx(ms), pytest.approx(expected))
    for budget in (25.0, 30.0, 35.0, 40.0):
        best = min(c.damage for c in everything if c.ms <= budget)
        found = min(c.damage for c in frontier if c.ms <= budget)
        rounded = min(c.damage for c in everything if c.ms <= 0.98 * budget)
        assert best - 1e-9 <= found <= rounded + 1e-9


def every_plan(counts: list[int]) -> Iterator[tuple[int, ...]]:
    return (
        kept for kept in itertools.product(counts, repeat=4) if list(kept) == sorted(kept)[::-1]
    )


def as_choice(backbone: CroprViT, counts: list[int], damage: dict, kept: tuple[int, ...]) -> Choice:
    plan, left = {}, counts[0]
    for block, count in enumerate(kept):
        if count < left:
            plan[block] = left = count
    return Choice(*evaluate(backbone, damage, plan), plan)


def evaluate(backbone: CroprViT, damage: dict, plan: Plan) -> tuple[float, float]:
    total, left = 0.0, 64
    for block, count in plan.items():
        total += max(0.0, damage[block, count] - damage.get((block, left), 0.0))
        left = count
    return COST.predict(work_of(backbone, plan)), total


def test_hand_made_plans_are_just_within_the_target() -> None:
    backbone = encoder()
    target = 0.75 * COST.predict(work_of(backbone, {}))
    found = hand_made(backbone, COST, target)
    assert set(found) == {"ConstantRate", "KeepRatios"}
    for plan in found.values():
        assert 0.85 * target < COST.predict(work_of(backbone, plan)) <= target
    assert "WindowStages" in hand_made(encoder(window_size=4), COST, target)


def test_a_twin_of_a_plan_shares_weights_and_leaves_the_encoder_alone() -> None:
    backbone = encoder()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        dense = backbone(images)[0]
        assert not torch.equal(with_plan(backbone, {0: 8})(images)[0], dense)
        torch.testing.assert_close(with_plan(backbone, {})(images)[0], dense)
        assert torch.equal(backbone(images)[0], dense)


@contextmanager
def silent(title: str, rounds: int) -> Iterator:
    yield lambda done: None


def test_cost_is_measured_on_plans_that_were_not_fitted() -> None:
    backbone = encoder()
    cost = measure_cost(backbone, "eager", torch.randn(1, 3, 64, 64), 2, silent)
    assert cost.dense_ms > 0
    assert len(cost.errors) == len(cost.checks) == 6
    assert min(cost.model.block_ms) >= 0


FRONTIER = [Choice(10.0, 0.0, {}), Choice(8.0, 0.1, {0: 8}), Choice(5.0, 0.4, {0: 4})]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(target_ms=11.0), "within the target of 11.0 ms: nothing has to be pruned"),
        (Budget(target_ms=4.0), "no plan reaches 4.0 ms; the fastest is predicted to take 5.0 ms"),
        (Budget(max_drop=0.05), "the least damaging one is predicted to cost 10.0% at 8.0 ms"),
    ],
)
def test_budgets_that_ask_too_much_or_nothing_are_named(budget: Budget, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        pick(FRONTIER, budget, dense_ms=10.0)


def test_budgets_are_met_by_the_least_damage_or_the_least_time() -> None:
    assert pick(FRONTIER, Budget(target_ms=8.5), 10.0)[0].plan == {0: 8}
    assert pick(FRONTIER, Budget(speedup=2.0), 10.0)[0].plan == {0: 4}
    assert pick(FRONTIER, Budget(max_drop=0.5), 10.0)[0].plan == {0: 4}
    losses = np.ones(2)
    tried = {
        name: Candidate({0: 8} if name != "dense" else {}, ms, ms, losses, growth, (0.0, 0.0))
        for name, ms, growth in [("dense", 10, 0), ("a", 8, 0.1), ("b", 5, 0.4), ("c", 5.05, 0.3)]
    }
    assert choose(tried, Budget(target_ms=5.0)) == ("c", True)
    assert choose(tried, Budget(speedup=2.0)) == ("c", True)
    assert choose(tried, Budget(max_drop=0.2)) == ("a", True)


def test_a_budget_that_was_missed_is_said_and_the_nearest_plan_taken() -> None:
    losses = np.ones(2)
    tried = {
        name: Candidate({0: 8} if name != "dense" else {}, ms, ms, losses, growth, (0.0, 0.0))
        for name, ms, growth in [("dense", 10, 0), ("a", 12, 0.1), ("b", 8, 0.3), ("c", 7, 0.4)]
    }
    assert choose(tried, Budget(speedup=2.0)) == ("c", False)
    assert choose(tried, Budget(max_drop=0.05)) == ("b", False), "a does not make it faster"
    assert choose(tried, Budget(max_drop=0.35)) == ("b", True), "a does not make it faster"


def test_plans_next_to_the_target_are_tried_and_after_a_miss_a_faster_one() -> None:
    frontier = [Choice(10.0 - i, 0.1 * i, {0: 64 - 8 * i} if i else {}) for i in range(7)]
    best = pick(frontier, Budget(target_ms=8.0), 10.0)
    assert [choice.ms for choice in best] == [8.0, 7.0, 6.0]
    losses = np.ones(2)
    tried = {
        str(choice.ms): Candidate(choice.plan, choice.ms, 1.5 * choice.ms, losses, 0.0, (0.0, 0.0))
        for choice in [frontier[0], *best]
    }
    found = next_faster(frontier, tried, 8.0)
    assert found is not None
    assert found.ms == 5.0, "7.5 ms, if it is as slow as the others"
    assert next_faster(frontier, tried, 5.9) is None


def test_after_too_much_damage_a_gentler_plan_is_tried() -> None:
    frontier = [Choice(10.0 - i, 0.1 * i, {0: 64 - 8 * i} if i else {}) for i in range(7)]
    best = pick(frontier, Budget(max_drop=0.5), 10.0)
    losses = np.ones(2)
    tried = {
        str(c.ms): Candidate(c.plan, c.ms, c.ms, losses, 2 * c.damage, (0.0, 0.0))
        for c in [frontier[0], *best]
    }
    found = next_gentler(frontier, tried, 0.5)
    assert found is not None
    assert found.damage == pytest.approx(0.2), "0.4, if it costs twice as much as predicted"
    assert next_gentler(frontier, tried, 0.1) is None


def test_damage_that_falls_with_fewer_tokens_is_noise() -> None:
    counts = [64, 32, 16, 8]
    damage = {(b, n): 1.0 + b for b in range(4) for n in counts[1:]}
    damage[3, 8] = 0.1  # less than for 32 tokens
    last = find_frontier(encoder(), COST, counts, damage)[-1]
    assert last.damage == 1.0, "one step after the first block, to any count"


def test_what_was_measured_is_kept_where_it_counts(tmp_path: Path) -> None:
    file, calls = tmp_path / "cost.json", []

    def measure() -> dict[str, float]:
        calls.append(1)
        return dict(load=0.5 if len(calls) == 1 else 0.0)

    key = dict(encoder=dict(type=CroprViT))  # a config may name a class
    for _ in range(3):
        kept(file, key, measure, lambda result: result["load"] < 0.2)
    assert len(calls) == 2, "not that of the busy machine, then once"
    for text in ("{", "{}", "[]"):
        file.write_text(text)
        with pytest.raises(SetupError, match="is damaged: expected what an earlier search"):
            kept(file, key, measure)


@pytest.mark.parametrize("given", [{}, dict(speedup=2.0, max_drop=0.1), dict(speedup=0.9)])
def test_budgets_without_sense_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Budget(**given)


def test_interval_holds_the_growth_of_paired_batches() -> None:
    base = np.array([1.0, 2.0, 3.0, 4.0])
    low, high = interval(1.1 * base, base)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)
