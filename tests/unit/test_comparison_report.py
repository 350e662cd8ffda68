"""Report of a comparison: paired differences with their signs, table and plot, order of runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from pycocotools.mask import frPyObjects

from cropr_mm.engine.preflight import SetupError
from experiments import comparison
from experiments.bootstrap import draw_images
from experiments.comparison_plots import draw, draw_curves
from experiments.comparison_report import format_tables, score, summarize
from experiments.runs import PRETRAINING, Run
from experiments.scores import TASKS

SPEED = dict(idle=True, load=0.1, threads=2, images_per_call=8)


SQUARE = dict(bbox=[4, 4, 20, 20], segmentation=[[4, 4, 24, 4, 24, 24, 4, 24]])


@pytest.fixture
def runs(tmp_path: Path) -> dict[tuple[str, int], Run]:
    """Three models on eight pictures of one object: 'dense' finds 8, 'cropr' 6, 'random' 6 - seed.

    Which ones 'cropr' and 'random' miss of seed 0 is the same.
    """
    truth: dict = {"images": [], "annotations": [], "categories": [dict(id=1)]}
    for i in range(8):
        truth["images"].append(dict(id=i, width=64, height=64))
        truth["annotations"].append(
            dict(id=i + 1, image_id=i, category_id=1, area=400, iscrowd=0, **SQUARE)
        )
    ann_file = tmp_path / "truth.json"
    ann_file.write_text(json.dumps(truth))
    (encoded,) = frPyObjects(SQUARE["segmentation"], 64, 64)
    rle = {**encoded, "counts": encoded["counts"].decode()}
    runs = {}
    for seed in (0, 1):
        for name, found in (("dense", 8), ("cropr", 6), ("random", 6 - seed)):
            run = Run("digits", seed, name, tmp_path / name / str(seed))
            run.folder.mkdir(parents=True)
            run.config.write_text(
                f"default_scope = 'mmdet'\ntest_evaluator = dict(ann_file={str(ann_file)!r})\n"
            )
            entries = [dict(image_id=i, category_id=1, score=0.9) for i in range(found)]
            boxes = [{**entry, "bbox": SQUARE["bbox"]} for entry in entries]
            masks = [{**entry, "segmentation": rle} for entry in entries]
            (run.folder / "predictions.bbox.json").write_text(json.dumps(boxes))
            (run.folder / "predictions.segm.json").write_text(json.dumps(masks))
            result = dict(metrics={}, mask_pixels_seen=0.5, seconds_per_iteration=1, iterations=9)
            (run.folder / "result.json").write_text(json.dumps(result))
            runs[name, seed] = run
    return runs


def test_differences_are_paired_and_have_the_sign_that_their_names_say(
    runs: dict[tuple[str, int], Run],
) -> None:
    summary = summarize(runs, ["dense", "cropr", "random"], [0, 1], samples=50)
    dense, cropr, random = (
        summary["variants"][name]["mask AP"] for name in ("dense", "cropr", "random")
    )
    assert dense["per_seed"] == [100.0, 100.0]
    assert cropr["per_seed"][0] == cropr["per_seed"][1] == random["per_seed"][0]
    gap = cropr["per_seed"][0] - 100
    assert gap < -20
    assert cropr["minus_dense"]["value"] == dense["cropr_minus_it"]["value"] == gap
    assert "minus_dense" not in dense
    assert "cropr_minus_it" not in cropr
    behind = (cropr["per_seed"][1] - random["per_seed"][1]) / 2
    assert behind > 0
    assert random["cropr_minus_it"]["value"] == pytest.approx(behind)
    assert cropr["minus_random"]["value"] == pytest.approx(behind)
    assert dense["minus_random"]["value"] == pytest.approx(behind - gap)


class Frames:
    """A film of two scenes, each ten frames that look alike."""

    num_images = 20
    films = (np.arange(20),)

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        """Share of the second scene, percent."""
        return {"mIoU": 100 * float((images >= 10).mean())}

    def by_class(self) -> dict[str, float]:
        """None."""
        return {}


def test_all_models_and_seeds_meet_the_same_blocks_of_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = replace(TASKS["seg"], read=lambda cfg, folder: Frames())
    monkeypatch.setitem(TASKS, "seg", task)
    found = []
    for seed in (0, 1):
        run = Run("camvid_dinov2s", seed, "random", tmp_path / str(seed))
        run.folder.mkdir()
        run.config.write_text("default_scope = 'mmseg'\n")
        found.append(score(run, 200).resampled["mIoU"])
    blocks = draw_images(20, 200, films=Frames.films)
    np.testing.assert_allclose(found[0], 100 * (blocks >= 10).mean(axis=1))
    np.testing.assert_array_equal(*found)


def test_the_same_predictions_differ_by_nothing_on_every_sample(
    runs: dict[tuple[str, int], Run],
) -> None:
    summary = summarize(runs, ["dense", "cropr", "random"], [0], samples=50)
    random = summary["variants"]["random"]["mask AP"]
    assert random["mean"]["low"] < random["mean"]["high"]
    assert random["cropr_minus_it"] == dict(value=0.0, low=0.0, high=0.0)


def test_table_and_plot_show_every_model(runs: dict[tuple[str, int], Run], tmp_path: Path) -> None:
    names = ["dense", "cropr", "random"]
    summary = summarize(runs, names, [0, 1], samples=20)
    times = dict(speedup=dict(value=1.5, low=1.4, high=1.6), images_per_s=30.0)
    speed = SPEED | dict(
        functions=dict.fromkeys(names, times), pruned_percent=dict(dense=0, cropr=86, random=86)
    )
    record = {"digits": {**summary, "encoder_speed": speed}}
    text = format_tables(record)
    assert [
        line.split(" ")[1]
        for line in text.splitlines()
        if line.startswith("| ") and " 1.50x " in line
    ] == names
    assert "idle machine, 2 threads" in text
    compiled = dict(dense=1.0, cropr=1.7, random=1.8)
    speed["compiled"] = {n: dict(value=v, low=v - 0.1, high=v + 0.1) for n, v in compiled.items()}
    text = format_tables(record)
    assert "encoder and compiled: speed-up over dense" in text
    assert "| 1.50x (1.40 to 1.60) | 1.80x (1.70 to 1.90) |" in text
    draw(record, tmp_path / "plot.png")
    pixels = np.array(Image.open(tmp_path / "plot.png").convert("RGB")).reshape(-1, 3)
    for color in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C)):
        assert (pixels == color).all(axis=1).sum() > 20, "one color a model"


def test_a_model_that_did_not_converge_has_a_row_without_accuracy(
    runs: dict[tuple[str, int], Run], tmp_path: Path
) -> None:
    names = ["dense", "random", "cropr"]
    before = summarize(runs, names, [0, 1], samples=20)
    (runs["cropr", 1].folder / "result.json").write_text('{"failed": "loss not finite at 3"}')
    summary = summarize(runs, names, [0, 1], samples=20)
    assert summary["variants"]["cropr"] == {"failed": {"1": "loss not finite at 3"}}
    for name in ("dense", "random"):
        for metric in ("box AP", "mask AP"):
            expected = {**before["variants"][name][metric]}
            del expected["cropr_minus_it"]
            assert summary["variants"][name][metric] == expected, "others are as without it"
    times = dict(speedup=dict(value=1.5, low=1.4, high=1.6), images_per_s=30.0)
    speed = SPEED | dict(
        functions=dict.fromkeys(names, times), pruned_percent=dict(dense=0, cropr=86, random=86)
    )
    record = json.loads(json.dumps({"digits": {**summary, "encoder_speed": speed}}))
    text = format_tables(record)
    reason = "did not converge: loss not finite at 3 (seed 1)"
    assert f"| cropr | 86 % | {reason} |  |  |  |  |  | 1.50x (1.40 to 1.60) |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert text.endswith("At every rate Cropr loses more than 0.5 mask AP.")
    draw(record, tmp_path / "plot.png")
    pixels = np.array(Image.open(tmp_path / "plot.png").convert("RGB")).reshape(-1, 3)
    shown = [(pixels == c).all(axis=1).sum() > 20 for c in ((0x1F, 0x77, 0xB4), (0x2C, 0xA0, 0x2C))]
    assert shown == [True, False], "two models, not three"


def test_a_curve_shows_what_was_finite(runs: dict[tuple[str, int], Run], tmp_path: Path) -> None:
    losses = dict(dense=[4.0, 3.0, 2.0], cropr=[4.0, 3.5, float("nan")], random=[float("inf")] * 3)
    for (name, _), run in runs.items():
        log = run.folder / "train/20260101_000000/vis_data/scalars.json"
        log.parent.mkdir(parents=True)
        lines = [dict(iter=n + 1, loss=loss) for n, loss in enumerate(losses[name])]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(runs, list(losses), [0, 1], tmp_path / "curves.png")
    pixels = np.array(Image.open(tmp_path / "curves.png").convert("RGB")).reshape(-1, 3)
    drawn = [(pixels == c).all(axis=1).sum() for c in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E))]
    assert min(drawn) > 200, "lines, not only keys of the legend"


def test_curves_are_of_the_models_own_loss(
    runs: dict[tuple[str, int], Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines: dict[str, tuple] = {}
    monkeypatch.setattr(
        Axes, "plot", lambda self, x, y, label, **look: lines.update({label: (x, y)})
    )
    for (_, seed), run in runs.items():
        log = run.folder / "train/20260101_000000/vis_data/scalars.json"
        log.parent.mkdir(parents=True)
        own = {1: 10.0, 2: 5.0}
        written = [dict(iter=n, loss=x + seed, loss_cropr_b05=seed) for n, x in own.items()]
        log.write_text("".join(json.dumps(line) + "\n" for line in written) + '{"mIoU": 3}\n')
    draw_curves(runs, ["dense", "cropr"], [0, 1], tmp_path / "curves.png")
    assert lines == {name: ([1, 2], [10.0, 5.0]) for name in ("dense", "cropr")}


def test_the_highest_rate_within_half_a_point_is_named() -> None:
    values = dict(per_seed=[50.0], mean=dict(value=50.0, low=49.0, high=51.0))

    def entry(low: float, high: float) -> dict:
        gap = dict(value=(low + high) / 2, low=low, high=high)
        return {"mIoU": values | dict(minus_dense=gap)}

    rates = {"cropr@30": (-0.2, 0.6), "cropr@50": (-1.5, -0.4), "cropr@70": (-3.0, -0.6)}
    rates |= {"cropr@90": (-9.0, 0.3), "random@70": (-0.1, 0.1)}
    variants = {"dense": {"mIoU": values}}
    variants |= {name: entry(*interval) for name, interval in rates.items()}
    speed = SPEED | dict(
        functions={
            name: dict(speedup=dict(value=1 + i / 10, low=1, high=2))
            for i, name in enumerate(variants)
        },
        pruned_percent=dict(zip(variants, (0, 30, 49.6, 70, 90, 70), strict=True)),
    )
    summary = dict(metrics=["mIoU"], variants=variants, seeds=[0], encoder_speed=speed)
    text = format_tables({"camvid": summary})
    assert text.endswith(
        "Up to 50 % pruned a loss of no more than 0.5 mIoU is in Cropr's interval, which does not "
        "show that it loses so little; the encoder is 1.20x as fast there."
    )
    others = {name: entry for name, entry in variants.items() if not name.startswith("cropr")}
    text = format_tables({"camvid": summary | dict(variants=others)})
    assert text.endswith("Cropr with even steps is not among the models.")
    for name in ("cropr@30", "cropr@50"):
        del variants[name]
    assert format_tables({"camvid": summary}).endswith(
        "At every rate Cropr loses more than 0.5 mIoU."
    )


def test_a_rate_that_did_not_converge_ends_what_costs_nothing() -> None:
    values = dict(per_seed=[50.0], mean=dict(value=50.0, low=49.0, high=51.0))
    near = {"mIoU": values | dict(minus_dense=dict(value=0.0, low=-0.1, high=0.1))}
    variants: dict = {"dense": {"mIoU": values}, "cropr@30": near, "cropr@70": near}
    variants["cropr@50"] = {"failed": {"0": "loss not finite at iteration 10"}}
    speed = SPEED | dict(
        functions={key: dict(speedup=dict(value=1.2, low=1, high=2)) for key in variants},
        pruned_percent={"dense": 0, "cropr@30": 30, "cropr@50": 50, "cropr@70": 70},
    )
    summary = dict(metrics=["mIoU"], variants=variants, seeds=[0], encoder_speed=speed)
    assert "Up to 30 % pruned" in format_tables({"camvid": summary})


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs in the order in which they were executed, without any training."""
    done: list[str] = []

    def execute(run: Run, cfg: object, threads: int) -> None:
        if run.name == PRETRAINING and run.seed == 1:
            raise SetupError(f"{run}: no luck")
        done.append(str(run))
        train = run.folder / "train"
        train.mkdir(parents=True)
        (train / "last_checkpoint").write_text(str(train / "iter_1.pth"))
        (run.folder / "result.json").write_text('{"metrics": {}}')

    monkeypatch.setattr(comparison, "execute", execute)
    monkeypatch.setattr(comparison, "make_demo_data", lambda folder, settings: None)
    return done


def test_variants_start_when_their_dense_model_is_there(
    executed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SetupError, match=r"^digits, seed 1, pretraining: no luck$"):
        comparison.compare(["digits"], ["cropr"], [0, 1], tmp_path, jobs=2)
    assert executed[0] == "digits, seed 0, pretraining"
    assert sorted(executed[1:]) == ["digits, seed 0, cropr", "digits, seed 0, dense"]
    said = capsys.readouterr().out
    assert "digits, seed 1, pretraining: FAILED" in said
    for name in ("dense", "cropr"):
        assert f"digits, seed 1, {name}: left out, no dense model to start from" in said
    assert not (tmp_path / "digits/comparison.json").exists(), "no report of half a comparison"


def test_a_variant_that_does_not_fit_is_named_before_any_training(
    executed: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match="expected a step after one of blocks 1 to"):
        comparison.compare(["digits"], ["cropr", "cropr@70b99"], [0], tmp_path)
    assert executed == []


def test_each_pack_gets_numbers_table_and_plot(
    executed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(comparison, "summarize", lambda runs, *rest: {"runs": len(runs)})
    monkeypatch.setattr(comparison, "encoder_speed", lambda runs, **_: sorted(runs))
    monkeypatch.setattr(comparison, "format_tables", lambda record: "a table")
    monkeypatch.setattr(comparison, "draw", lambda record, file: seen.append(file))
    monkeypatch.setattr(comparison, "draw_curves", lambda *args: seen.append(args[-1]))
    (file,) = comparison.compare(["digits"], ["cropr"], [0, 2], tmp_path)
    assert json.loads(file.read_text()) == {
        "digits": {"runs": 4, "encoder_speed": ["cropr", "dense"]}
    }
    assert (tmp_path / "digits/tables.md").read_text() == "a table\n"
    assert seen == [tmp_path / "digits/comparison.png", tmp_path / "digits/curves.png"]
