"""One model trains at changing shares of its reduction, and goes on exactly after a break."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import Runner
from reducing_runner import EPOCHS, ITERS, LOADER, Model, make_runner, seen

from cropr_mm.engine.evaluate_shares import time_shares
from cropr_mm.engine.preflight import SetupError, check_hooks, check_steps
from cropr_mm.engine.resume import check_resumable
from cropr_mm.hooks.curriculum_hook import CroprCurriculumHook
from cropr_mm.hooks.elastic_hook import CroprElasticHook, share_at

ELASTIC = dict(type="cropr_mm.CroprElasticHook")


class Count(BaseMetric):
    """The number of validations so far."""

    count = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.count += 1
        return dict(count=self.count)


def test_least_a_draw_and_most_take_turns() -> None:
    shares = [share_at(step, 0.2, 0.9, seed=0) for step in range(300)]
    assert set(shares[0::3]) == {0.2}
    assert set(shares[2::3]) == {0.9}
    drawn = torch.tensor(shares[1::3], dtype=torch.float64)
    assert drawn.min() >= 0.2
    assert drawn.max() <= 0.9
    assert drawn.mean() == pytest.approx(0.55, abs=0.06)
    assert len(drawn.unique()) > 40
    assert torch.equal(drawn, (100 * drawn).round() / 100), "plans of a share are kept"
    assert shares == [share_at(step, 0.2, 0.9, seed=0) for step in range(300)]
    assert shares != [share_at(step, 0.2, 0.9, seed=1) for step in range(300)]


def test_the_encoder_follows_and_validation_has_one_row_a_share(tmp_path: Path) -> None:
    metric = Count()
    runner = make_runner(
        *(tmp_path, dict(ELASTIC, val_progress=(0.0, 0.5, 1.0)), ITERS),
        val_evaluator=Evaluator([metric]),
        log_level="INFO",
    )
    runner.train()
    assert seen(runner, "loss") == [share_at(step, 0, 1, seed=0) for step in range(6)]
    assert seen(runner, "predict") == 3 * [0, 0, 0.5, 0.5, 1, 1]
    hub = runner.message_hub
    names = ("val/count@0", "val/count@0.5", "val/count")
    assert [int(hub.get_scalar(name).current()) for name in names] == [7, 8, 9]
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert [line.split() for line in log.splitlines()[-4:] if "Iter" not in line][-3:] == [
        ["0", "7"],
        ["0.5", "8"],
        ["1", "9"],
    ]


def test_averaged_weights_are_validated_at_every_share(tmp_path: Path) -> None:
    hooks = [dict(ELASTIC, val_progress=(0.5, 1.0)), dict(type="EMAHook", momentum=0.9)]
    runner = make_runner(tmp_path, {}, ITERS, custom_hooks=hooks)
    weights: list[torch.Tensor] = []
    forward = runner.model.forward

    def watch(inputs: torch.Tensor, mode: str = "tensor") -> Any:
        if mode == "predict":
            weights.append(runner.model.head.weight.detach().clone())
        return forward(inputs, mode)

    runner.model.forward = watch
    runner.train()
    assert len(weights) == 12
    for i in range(0, 12, 4):  # two images at each share
        assert all(torch.equal(weights[i], other) for other in weights[i + 1 : i + 4])


def test_resumed_training_draws_as_it_would_have(tmp_path: Path) -> None:
    whole = make_runner(tmp_path / "whole", dict(ELASTIC, seed=3), ITERS)
    whole.train()
    file = tmp_path / "whole/iter_4.pth"
    state = torch.load(file, weights_only=False)["cropr_elastic"]
    assert state == dict(seed=3, least=0.0, most=1.0)
    # The seed is the training's, whatever the config says by now.
    part = make_runner(tmp_path / "part", ELASTIC, ITERS, load_from=str(file), resume=True)
    part.train()
    assert seen(part, "loss") == seen(whole, "loss")[4:]
    other = make_runner(tmp_path / "other", ELASTIC, ITERS, load_from=str(file))
    other.train()
    assert seen(other, "loss") != seen(whole, "loss"), "a new training has its own draws"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(least=0.5, most=0.5), "0 <= least < most <= 1, got 0.5 and 0.5"),
        (dict(most=1.5), "got 0.0 and 1.5"),
        (dict(val_progress=()), "ascending val_progress"),
        (dict(most=0.5, val_progress=(0.5, 1.0)), r"val_progress in \[0, 0.5\], got \[0.5, 1.0\]"),
        (dict(val_progress=(1.0, 0.5)), "ascending val_progress"),
        (dict(seed=-1), "a seed of at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroprElasticHook(**arguments)


WINDOWS = dict(
    arch=dict(embed_dim=8, depth=5, num_heads=2, patch_size=4, img_size=16, cls_token=False),
    window_size=2,
    global_block_indexes=[1, 4],
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 12, 1: 8}),
)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (dict(reducer=None, schedule=None), "that has reducer and schedule, got Model without"),
        (dict(reducer=dict(type="cropr_mm.Sinkhorn")), "Sinkhorn has as many slots"),
        (WINDOWS, r"does not fit at 0\.0\d of the full reduction: 16|which needs a multiple of"),
    ],
)
def test_models_that_cannot_are_refused(backbone: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        CroprElasticHook().check(Model(**backbone))


def test_steps_of_other_lengths_are_refused(tmp_path: Path) -> None:
    wrapper = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)
    runner = make_runner(
        *(tmp_path, ELASTIC, EPOCHS), optim_wrapper=wrapper, cfg=dict(optim_wrapper=wrapper)
    )
    message = r"accumulative_counts of 1 or a multiple of 3.*got 2"
    with pytest.raises(SetupError, match=message):
        check_steps(runner)
    with pytest.raises(ValueError, match=message):
        runner.train()


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (dict(ELASTIC, least=0.5), "drawn from 0 to 1: expected the same to go on, got 0.5 to 1"),
        (dict(type="CheckpointHook"), "expected CroprElasticHook among custom_hooks to go on"),
    ],
)
def test_another_kind_of_training_does_not_go_on(hook: dict, message: str, tmp_path: Path) -> None:
    runner = make_runner(tmp_path, hook, ITERS)
    parts: dict = dict(state_dict={}, message_hub={}, optimizer={})
    stored = dict(parts, meta={}, cropr_elastic=dict(seed=0, least=0.0, most=1.0))
    with pytest.raises(SetupError, match=message):
        check_resumable(runner, stored, "iter_4.pth")


def test_a_curriculum_beside_it_is_refused() -> None:
    with pytest.raises(SetupError, match="CroprElasticHook and CroprCurriculumHook"):
        check_hooks(Model(), [CroprElasticHook(), CroprCurriculumHook(by_epoch=False)])


def test_tests_prune_fully(tmp_path: Path) -> None:
    test = dict(test_dataloader=LOADER, test_cfg=dict(), test_evaluator=Evaluator([]))
    runner: Runner = make_runner(tmp_path, ELASTIC, ITERS, **test)
    runner.model.backbone.progress = 0.25
    runner.test()
    assert seen(runner, "predict") == [1, 1]


def test_each_share_is_timed_as_itself(tmp_path: Path) -> None:
    test = dict(test_dataloader=LOADER, test_cfg=dict(), test_evaluator=Evaluator([]))
    runner = make_runner(tmp_path, ELASTIC, ITERS, **test)
    times = time_shares(runner, [0.0, 0.5, 1.0], rounds=4)
    assert {name: len(values) for name, values in times.times.items()} == {"0": 4, "0.5": 4, "1": 4}
    counts = Counter(seen(runner, "predict"))
    assert set(counts) == {0.0, 0.5, 1.0}
    assert min(counts.values()) >= 4
