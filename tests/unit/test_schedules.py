"""Published schedules, counted; and plans that do not fit."""

import math
import re
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules import (
    ConstantRate,
    Discs,
    ExplicitShares,
    ExplicitTokens,
    InflectedRate,
    KeepRatios,
    Schedule,
    ScheduleSettings,
    ShrinkingDiscs,
    Stages,
    WindowStages,
)

SCHEDULES = [
    *(ConstantRate, Discs, ExplicitShares, ExplicitTokens, InflectedRate),
    *(KeepRatios, ShrinkingDiscs, Stages, WindowStages),
]


def ask(
    schedule: Schedule,
    num_patches: int,
    *,
    num_prefix: int = 1,
    depth: int = 24,
    window_size: int | None = None,
    fusion: bool = True,
    progress: float = 1.0,
    num_fused: int = 0,
) -> dict[int, int]:
    return schedule(
        ScheduleSettings(
            num_patches=num_patches,
            num_prefix=num_prefix,
            depth=depth,
            window_size=window_size,
            last_site=depth - (3 if fusion else 2),
            progress=progress,
            num_fused=num_fused,
        )
    )


def test_constant_rate_gives_the_published_lengths_of_vit_large() -> None:
    plan = ask(ConstantRate(8), 196)
    assert list(plan) == list(range(22))
    # The class token included, as entering blocks 2 ... 23 (1-based).
    assert [count + 1 for count in plan.values()] == list(range(188, 19, -8))


def test_constant_rate_gives_the_published_lengths_on_ade20k() -> None:
    plan = ask(ConstantRate(40), 1024)
    assert [count + 1 for count in plan.values()] == list(range(984, 143, -40))


def test_constant_rate_without_a_class_token_absorbs_nothing() -> None:
    assert ask(ConstantRate(40), 1024, num_prefix=0)[0] == 984
    assert ask(ConstantRate(8, absorb_prefix=False), 196)[0] == 188
    assert ask(ConstantRate(8, absorb_prefix=False), 196)[21] == 196 - 22 * 8


def test_constant_rate_absorbs_registers_too() -> None:
    plan = ask(ConstantRate(8), 196, num_prefix=5)
    assert {(count + 5) % 4 for count in plan.values()} == {0}
    assert plan[0] == 196 - 8 - 5


def test_constant_rate_reaches_one_block_further_without_fusion() -> None:
    assert max(ask(ConstantRate(8), 196, fusion=False)) == 22


@pytest.mark.parametrize(
    ("num_patches", "depth", "rate", "fusion", "percent"),
    [
        (196, 24, 8, False, 94),
        (196, 24, 8, True, 90),
        (196, 12, 16, True, 82),
        (256, 32, 8, True, 94),
        (1024, 24, 40, True, 86),
        (441, 24, 18, True, 90),
        (784, 24, 32, True, 90),
    ],
)
def test_total_pruning_ratio_is_the_published_one(
    num_patches: int, depth: int, rate: int, fusion: bool, percent: int
) -> None:
    schedule = ConstantRate(rate, absorb_prefix=False)
    left = min(ask(schedule, num_patches, depth=depth, fusion=fusion).values())
    assert round(100 * (num_patches - left) / num_patches) == percent


@pytest.mark.parametrize(("num_patches", "rate"), [(1024, 40), (4096, 160), (16384, 640)])
def test_resolution_study_prunes_ninety_percent(num_patches: int, rate: int) -> None:
    left = min(ask(ConstantRate(rate), num_patches, num_prefix=0, fusion=False).values())
    assert round(100 * (num_patches - left) / num_patches) == 90


@pytest.mark.parametrize(
    ("arch", "last", "token_blocks"),
    [
        (dict(num_patches=196, depth=12, rate=16), 36, 1474),
        (dict(num_patches=196, depth=24, rate=8), 20, 2682),
        (dict(num_patches=196, depth=24, rate=8, fusion=False), 12, 2497),
        (dict(num_patches=256, depth=32, rate=8), 16, 4474),
        (dict(num_patches=441, depth=24, rate=18), 45, 6032),
        (dict(num_patches=784, depth=24, rate=32), 80, 10722),
        (dict(num_patches=1024, depth=24, rate=40), 144, 14458),
    ],
)
def test_tokens_summed_over_blocks_are_the_published_cost(
    arch: dict, last: int, token_blocks: int
) -> None:
    setting = dict(arch)
    num_patches, depth = setting["num_patches"], setting["depth"]
    fusion = setting.get("fusion", True)
    plan = ask(ConstantRate(setting.pop("rate")), **setting)
    lengths = [num_patches + 1]
    for block in range(depth - 1):
        lengths.append(plan[block] + 1 if block in plan else lengths[-1])
    if fusion:
        lengths[-1] = num_patches + 1
    assert lengths[-2 if fusion else -1] == last
    assert sum(lengths) == token_blocks


def test_three_stages_leave_46_tokens() -> None:
    with_class = ask(Stages(50, [5, 11, 17]), 196)
    assert with_class == {5: 145, 11: 95, 17: 45}  # 46 with the class token
    assert ask(Stages(50, [5, 11, 17], absorb_prefix=False), 196)[17] == 46


def test_a_single_aggressive_stage_leaves_200_tokens() -> None:
    plan = ask(Stages(825, [2], absorb_prefix=False), 1024)
    assert plan == {2: 199}  # 200 with the class token


def test_stages_take_one_rate_each() -> None:
    assert ask(Stages([10, 20], [1, 3]), 100, num_prefix=0) == {1: 90, 3: 70}


def test_window_stages_give_the_published_counts() -> None:
    plan = ask(WindowStages([4, 7, 10, 13, 19]), 96 * 96, num_prefix=0, window_size=16)
    assert plan == {4: 6400, 7: 4096, 10: 2304, 13: 1024, 19: 256}
    left = min(plan.values())
    assert round(100 * (9216 - left) / 9216, 1) == 97.2


@pytest.mark.parametrize("window_size", [4, 7, 8, 16])
@pytest.mark.parametrize("grid", [(32, 32), (50, 68), (17, 16), (30, 100), (96, 64)])
@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("progress", [1.0, 0.5, 0.03])
def test_window_stages_leave_whole_windows_on_any_grid(
    grid: tuple[int, int], window_size: int, stages: int, progress: float
) -> None:
    num_patches, area = grid[0] * grid[1], window_size**2
    schedule = WindowStages(list(range(stages)))
    setting = dict(num_prefix=0, window_size=window_size)
    plan = ask(schedule, num_patches, progress=progress, **setting)
    assert list(plan) == list(range(stages))
    assert all(count % area == 0 or count == num_patches for count in plan.values())
    windows = num_patches // area
    left = num_patches
    for stage in range(1, stages + 1):
        keep = area * max(1, round(windows * ((stages + 1 - stage) / (stages + 1)) ** 2))
        wanted = num_patches - math.floor(progress * (num_patches - keep))
        count = plan[stage - 1]
        # The fewest whole windows that keep all that should be kept, or no step.
        assert count == min(left, math.ceil(wanted / area) * area)
        left = count


def test_a_window_stage_that_keeps_everything_stays_in_the_plan() -> None:
    # One window and a bit: the first stage leaves the window, the second nothing more.
    assert ask(WindowStages([1, 3]), 20, num_prefix=0, window_size=4) == {1: 16, 3: 16}
    assert ask(WindowStages([1, 3]), 16, num_prefix=0, window_size=4) == {1: 16, 3: 16}


def test_window_stages_need_a_window() -> None:
    with pytest.raises(ValueError, match=r"at least one window of 256 patch tokens.* of 64"):
        ask(WindowStages([4]), 64, num_prefix=0, window_size=16)
    with pytest.raises(ValueError, match="window_size=None"):
        ask(WindowStages([4]), 64, num_prefix=0)


@pytest.mark.parametrize(
    ("ratio", "counts"),
    [
        (0.25, [49, 12, 3]),
        (0.5, [98, 49, 24]),
        (0.7, [137, 96, 67]),
        (0.9, [176, 158, 142]),
    ],
)
def test_keep_ratios_give_the_published_counts(ratio: float, counts: list[int]) -> None:
    plan = ask(KeepRatios(ratio, [3, 6, 9]), 196, depth=12)
    assert plan == dict(zip([3, 6, 9], counts, strict=True))


def test_keep_ratios_count_real_tokens() -> None:
    assert ask(KeepRatios(0.7, [3, 6, 9]), 196, num_fused=1) == {3: 138, 6: 97, 9: 68}
    for num_fused in (1, 0):
        with pytest.raises(ValueError, match="got 0"):
            ask(KeepRatios(0.001, [3]), 196, num_fused=num_fused)


def test_a_share_of_live_tokens_counts_the_fused_one_and_rounds_up() -> None:
    schedule = KeepRatios(0.7, [3, 6, 9], share_of="live")
    # ceil(137.2), ceil(96.6), ceil(67.9); fused: 138 + 1, ceil(97.3) + 1, ceil(69.3) + 1
    assert ask(schedule, 196) == {3: 138, 6: 97, 9: 68}
    assert ask(schedule, 196, num_fused=1) == {3: 139, 6: 99, 9: 71}
    assert ask(schedule, 196, num_fused=1, progress=0.0) == dict.fromkeys([3, 6, 9], 196)
    assert ask(KeepRatios(0.3, [3], share_of="live"), 10) == {3: 3}, "3.0000000000000004 or not"
    with pytest.raises(ValueError, match="share_of 'image' or 'live', got 'all'"):
        KeepRatios(0.7, [3], share_of="all")


def test_keep_ratios_are_exact_where_floats_are_not() -> None:
    assert 0.29 * 100 < 29
    assert ask(KeepRatios(0.29, [3]), 100) == {3: 29}
    assert ask(KeepRatios(0.57, [3]), 100) == {3: 57}


def test_keeping_everything_names_the_same_blocks() -> None:
    assert ask(KeepRatios(1.0, [3, 6]), 196) == {3: 196, 6: 196}
    assert ask(ExplicitTokens({3: 196}), 196) == {3: 196}
    for schedule in (KeepRatios(0.5, [3]), ExplicitTokens({3: 7})):
        assert ask(schedule, 196, progress=0.0) == {3: 196}
    assert set(ask(ConstantRate(8), 196, num_prefix=0, progress=0.0).values()) == {196}
    assert ask(WindowStages([3]), 196, window_size=4, progress=0.0) == {3: 196}


def test_explicit_tokens_are_taken_as_given() -> None:
    assert ask(ExplicitTokens({9: 50, 3: 100}), 196) == {3: 100, 9: 50}
    assert ask(ExplicitTokens({"3": 100}), 196) == {3: 100}


def test_curriculum_grows_the_rate_as_published() -> None:
    """Rates of epochs 0, 1, ... of 64, ramped over the first half, to 40 tokens per block."""
    published = [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 18, 19, 20, 21, 23, 24]
    published += [25, 27, 28, 29, 30, 32, 33, 34, 36, 37, 38, 40]
    for epoch, rate in enumerate(published):
        plan = ask(ConstantRate(40), 1024, progress=epoch / 31)
        # The first step also pays for the class token, at any rate.
        assert plan[0] == 1024 - rate - 1
        assert plan.get(21, 1023) == 1024 - 22 * rate - 1
    assert set(ask(ConstantRate(40), 1024, progress=0.0).values()) == {1023}


@pytest.mark.parametrize("progress", [0.0, 0.01, 0.29, 0.5, 0.999, 1.0])
def test_progress_scales_and_floors_the_removal(progress: float) -> None:
    removed = math.floor(round(100 * progress, 6))
    for schedule in (
        ExplicitTokens({3: 96}),
        Stages(100, [3], absorb_prefix=False),
    ):
        assert ask(schedule, 196, progress=progress).get(3, 196) == 196 - removed


def test_progress_brings_a_keep_ratio_down_from_1() -> None:
    assert ask(KeepRatios(0.5, [3, 6]), 200, progress=0.5) == {3: 150, 6: 112}


def test_inflected_rates_are_those_of_the_released_code() -> None:
    setting: dict[str, Any] = dict(depth=12, fusion=False)
    left = [196 - 8 * step for step in range(1, 12)]
    assert list(ask(InflectedRate(8), 196, **setting).values()) == left
    removed = [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14]  # 16 in the last block, without effect
    left = [196 - sum(removed[: step + 1]) for step in range(11)]
    assert list(ask(InflectedRate(8, 1.0), 196, **setting).values()) == left
    removed = [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1]
    left = [196 - sum(removed[: step + 1]) for step in range(11)]
    assert list(ask(InflectedRate(8, -1.0), 196, **setting).values()) == left


def test_a_rate_takes_one_half_at_most_and_a_short_list_goes_on_with_nothing() -> None:
    plan = ask(InflectedRate([100, 60, 3]), 101, depth=6, fusion=False)
    assert plan == {0: 51, 1: 26, 2: 23, 3: 23, 4: 23}


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_is_a_part(progress: float) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 1\], got {progress}"):
        ask(ConstantRate(8), 196, progress=progress)


@pytest.mark.parametrize(
    ("schedule", "num_patches", "message"),
    [
        (ConstantRate(10), 196, "10 tokens after each of 22 blocks are more than the 196"),
        (Stages(100, [3, 6]), 196, "1 and 95 of 196 patch tokens after block 6, got -5"),
        (KeepRatios(0.01, [3, 6]), 196, "1 and 1 of 196 patch tokens after block 6, got 0"),
        (ExplicitTokens({3: 100, 6: 101}), 196, "1 and 100 of 196 .* after block 6, got 101"),
        (ExplicitTokens({3: 197}), 196, "at most 196 patch tokens, got {3: 197}"),
        (ExplicitTokens({3: 0}), 196, "1 and 196 of 196 .* got 0"),
        (ExplicitTokens({22: 10}), 196, r"blocks in \[0, 21\] .* of 24 blocks, got block 22"),
        (Stages(50, [5, 22]), 196, r"\[0, 21\] .* got block 22"),
        (KeepRatios(0.5, [22]), 196, r"\[0, 21\] .* got block 22"),
    ],
)
def test_a_plan_that_does_not_fit_names_the_numbers(
    schedule: Schedule, num_patches: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ask(schedule, num_patches)
    assert type(schedule).__name__ in str(caught.value)


def test_window_stages_name_a_block_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"\[0, 21\] .* got block 22"):
        ask(WindowStages([4, 22]), 1024, window_size=8)


def test_small_images_keep_what_a_constant_rate_would_use_up() -> None:
    with pytest.raises(ValueError, match=r"196 of the image; min_keep ends .* KeepRatios"):
        ask(ConstantRate(40), 196)
    plan = ask(ConstantRate(40, min_keep=10), 196)
    assert [plan[block] for block in range(6)] == [155, 115, 75, 35, 10, 10]
    assert min(ask(ConstantRate(40, min_keep=10), 5, num_prefix=0).values()) == 5
    assert ask(ConstantRate(8, min_keep=10), 196) == ask(ConstantRate(8), 196)


def test_a_model_without_room_for_a_step_is_named() -> None:
    with pytest.raises(ValueError, match="2 blocks has no room"):
        ask(ConstantRate(8), 196, depth=2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConstantRate(0), "whole numbers >= 1, got 0"),
        (lambda: Stages(0, [1]), "whole numbers >= 1"),
        (lambda: ConstantRate(1.5), "rate in whole numbers >= 1, got 1.5"),
        (lambda: ConstantRate("8"), "got '8'"),
        (lambda: ConstantRate(8, min_keep=0), "min_keep in whole numbers"),
        (lambda: Stages([2.5], [1]), r"got \[2.5\]"),
        (lambda: InflectedRate(1.5), "got"),
        (lambda: ExplicitTokens({1: 8.5}), "num_keep in whole numbers >= 0"),
        (lambda: Stages([5, 5], [1]), r"each of 1 blocks, got \[5, 5\]"),
        (lambda: Stages(5, [3, 1]), r"ascending 0-based blocks, got \[3, 1\]"),
        (lambda: Stages(5, []), r"ascending 0-based blocks, got \[\]"),
        (lambda: Stages(5, [1, 1]), r"got \[1, 1\]"),
        (lambda: WindowStages([-1, 2]), r"got \[-1, 2\]"),
        (lambda: KeepRatios(0.0, [1]), r"\(0, 1\], got 0.0"),
        (lambda: InflectedRate(0), "one of them positive, got 0"),
        (lambda: InflectedRate([3, -1]), r"numbers >= 0.* got \[3, -1\]"),
        (lambda: InflectedRate(8, 1.5), r"\[-1, 1\], got 1.5"),
        (lambda: InflectedRate([8], 0.5), "inflection=0 with a list"),
        (lambda: KeepRatios(1.5, [1]), r"\(0, 1\], got 1.5"),
        (lambda: ExplicitTokens({}), r"got \[\]"),
        (lambda: ShrinkingDiscs([3, 2]), r"ascending 0-based blocks, got \[3, 2\]"),
        (lambda: ShrinkingDiscs([2], "l3"), "'linf', got 'l3'"),
        (lambda: ShrinkingDiscs([2], min_radius=0), "min_radius > 0, got 0"),
    ],
)
def test_bad_arguments_fail_at_once(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_are_registered_and_refuse_unknown_arguments(kind: type[Schedule]) -> None:
    assert TASK_UTILS.module_dict[kind.__name__] is kind
    with pytest.raises(TypeError, match="unknown"):
        kind(unknown=1)


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantRate(8),
        Stages([20, 30], [2, 4]),
        WindowStages([2, 4]),
        KeepRatios(0.7, [2, 4]),
        ExplicitTokens({2: 50}),
        Discs(0.7, [2, 4]),
        Discs(0.7, [2, 4], compat=True),
        ShrinkingDiscs([2, 3, 4]),
        ShrinkingDiscs([2, 3, 4], "l1", compat=True),
        KeepRatios(0.7, [2, 4], share_of="live"),
        InflectedRate(8, 0.5),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
@pytest.mark.parametrize("progress", [1.0, 0.5])
def test_schedules_trace_inside_a_model(schedule: Schedule, progress: float) -> None:
    """The model asks its schedule in each forward pass, compiled ones included."""

    def model(x: Tensor) -> Tensor:
        plan = ask(schedule, x.numel(), depth=12, window_size=4, progress=progress)
        for block, count in plan.items():
            x = x + block * count
        return x

    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.zeros(14, 14)), model(torch.zeros(14, 14)))


def test_schedules_accept_config_containers() -> None:
    cfg = ConfigDict(rate=[10, 20], blocks=range(2), plan={3: 100})
    assert ask(Stages(cfg.rate, cfg.blocks), 100, num_prefix=0) == {0: 90, 1: 70}
    assert ask(ExplicitTokens(cfg.plan), 196) == {3: 100}


def test_schedules_are_pure_and_print_their_settings() -> None:
    schedule = Stages([10, 20], [1, 3])
    assert ask(schedule, 100) == ask(schedule, 100)
    assert re.fullmatch(r"Stages\(rate=\[10, 20\], blocks=\(1, 3\), .*\)", str(schedule))


@pytest.mark.parametrize("kind", ["Discs", "ShrinkingDiscs"])
@pytest.mark.parametrize("other", [dict(norm="l1"), dict(compat=True)])
def test_discs_of_another_norm_than_the_pruners_are_refused(kind: str, other: dict) -> None:
    counts = dict(Discs=dict(ratio=0.7), ShrinkingDiscs=dict())[kind]
    options: dict[str, Any] = dict(arch=dict(embed_dim=8, depth=3, num_heads=1), img_size=64)
    schedule = dict(type=f"cropr_mm.{kind}", blocks=[0, 1], **counts)
    pruner = dict(type="cropr_mm.RadialPruner")
    for asked in ({}, other):
        CroprViT(**options, reducer=pruner | asked, schedule=schedule | asked)
    for own, asked in ((other, {}), ({}, other)):
        with pytest.raises(ValueError, match=f"{kind} counts discs of .* expected the same"):
            CroprViT(**options, reducer=pruner | own, schedule=schedule | asked)
    CroprViT(**options, reducer=dict(type="cropr_mm.RandomPruner"), schedule=schedule | other)


def test_shares_are_rounded_to_tokens_and_whole_windows() -> None:
    shares = ExplicitShares({0: 0.75, 4: 0.3, 6: 0.001})
    assert ask(shares, 432) == {0: 324, 4: 130, 6: 1}
    assert ask(shares, 432, progress=0.0) == {0: 432, 4: 432, 6: 432}
    assert ask(shares, 432, progress=0.5)[0] == 378
    assert ask(shares, 36 * 64, window_size=8) == {0: 27 * 64, 4: 11 * 64, 6: 64}
    assert ask(ExplicitShares({0: 1.0}), 70, window_size=8) == {0: 70}


@pytest.mark.parametrize("share", [{}, {0: 0.0}, {0: 1.1}, {0: 0.5, 1: 0.6}, {-1: 0.5}])
def test_shares_that_are_none_are_refused(share: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ExplicitShares(share)
