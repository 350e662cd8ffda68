"""What encoders do with tokens: recorded, written, compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import normalized_mutual_info_score

from cropr_mm import CroprViT
from cropr_mm.inspection.cluster_centers import medoid_of_patches
from cropr_mm.inspection.metrics import cluster_agreement
from cropr_mm.inspection.similarity import compare_records, format_similarity, mean_depth
from cropr_mm.inspection.similarity_vs_accuracy import format_proxies, proxy_correlations
from cropr_mm.inspection.summary import (
    format_summary,
    neighbors_of_one_block,
    summarize_record,
)
from cropr_mm.inspection.token_plots import draw_depth_maps, draw_features, draw_tokens
from cropr_mm.inspection.token_record import TokenRecord, TokenRecorder
from cropr_mm.reducers import KMedoids
from cropr_mm.structures import Reduction, Tokens

PRUNE: dict[str, Any] = dict(
    reducer=dict(type="cropr_mm.VariancePruner"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={1: 9, 2: 4}),
)
MERGE: dict[str, Any] = dict(
    reducer=dict(type="cropr_mm.ToMe"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={1: 9, 2: 5}),
)
FUSE: dict[str, Any] = dict(
    reducer=dict(type="cropr_mm.EViT"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={1: 9, 2: 4}),
)
MEDOIDS = MERGE | dict(reducer=dict(type="cropr_mm.KMedoids"))
CENTERS = MERGE | dict(reducer=dict(type="cropr_mm.DPCKNN"))


def encoder(seed: int = 0, **options: Any) -> CroprViT:
    torch.manual_seed(seed)
    arch = dict(embed_dim=16, depth=4, num_heads=2)
    return CroprViT(arch, img_size=32, patch_size=8, **options).eval()


def record(images: torch.Tensor, seed: int = 0, **options: Any) -> TokenRecord:
    model = encoder(seed, **options)
    with TokenRecorder(model, None if options else (1, 2, 3)) as recorder, torch.no_grad():
        for batch in images.split(2):
            model(batch)
    model(images[:1])  # is not recorded any more
    return recorder.record()


def results(images: torch.Tensor, seed: int = 0, **options: Any) -> list[Reduction]:
    """What each step of the same encoder returns for all images at once."""
    model = encoder(seed, **options)
    found: list[Reduction] = []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, _args, result: found.append(result))
    with torch.no_grad():
        model(images)
    return found


def written(left_after: list[list[int]] | None = None, **changes: Any) -> TokenRecord:
    """Record of 2 x 2 patches, written by hand."""
    left = None if left_after is None else np.array(left_after)
    given: dict[str, Any] = dict(
        grid=(2, 2),
        num_blocks=12,
        steps=(2, 5),
        depths=(3, 6),
        num_keep=(3, 2),
        merges=left is None,
        left_after=left,
        clusters={},
        features={11: np.eye(2, 3, dtype=np.float32)},
    )
    return TokenRecord(**given | changes)


def some_images(number: int = 5) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(number, 3, 32, 32)


def test_pruned_patches_are_those_of_lowest_variance() -> None:
    images = some_images()
    found = record(images, **PRUNE)
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (n, 3, 4, 4, 8, 8)
    order = patches.var(dim=(4, 5)).mean(1).flatten(1).argsort(1, descending=True)
    for i in range(5):
        expected = {1: set(order[i, :9].tolist()), 2: set(order[i, :4].tolist())}
        assert found.kept(i) == expected
    assert (found.num_images, found.grid, found.num_blocks) == (5, (4, 4), 4)
    assert list(found.features) == [1, 2, 3]
    assert found.features[3].shape == (5, 16)
    assert not found.clusters


def test_merged_patches_are_those_of_one_cluster() -> None:
    found = record(some_images(), **MERGE)
    assert found.left_after is None
    assert [len(np.unique(found.clusters[b][0])) for b in (1, 2)] == [9, 5]
    for fine, coarse in zip(found.clusters[1], found.clusters[2], strict=True):
        assert len(set(zip(fine, coarse, strict=True))) == 9, "clusters are merged as wholes"


def test_fused_tokens_are_no_patches() -> None:
    images = some_images()
    found, steps = record(images, **FUSE), results(images, **FUSE)
    for i in range(len(images)):
        expected = [{p for p in step.kept.index[i].tolist() if p >= 0} for step in steps]
        assert list(found.kept(i).values()) == expected
        assert len(expected[0]) == 8, "and the fused token"
        assert len(expected[1]) in (2, 3), "and the new fused token, perhaps the first one too"
        assert expected[1] < expected[0]


def test_places_that_are_left_empty_are_no_kept_patches() -> None:
    images, schedule = some_images(), dict(type="cropr_mm.ExplicitTokens", num_keep={1: 14})
    options: dict[str, Any] = dict(reducer=dict(type="cropr_mm.ATS"), schedule=schedule)
    (result,) = results(images, **options)
    live = result.kept.policy.sum(dim=1).tolist()
    assert min(live) < 14, "otherwise nothing is tested"
    found = record(images, **options)
    assert [len(found.kept(i)[1]) for i in range(len(images))] == live


def test_depth_is_the_block_that_a_step_stands_before_or_in() -> None:
    # Kept: {0, 1, 2}, then {0, 1}; in the second image {1, 2, 3}, then {1, 3}.
    left = [[-1, -1, 5, 2], [2, -1, 5, -1]]
    assert mean_depth(written(left)).tolist() == [[7.5, 12], [6, 7.5]]
    assert mean_depth(written(left, depths=(2, 5))).tolist() == [[7, 12], [5, 7]]


@pytest.mark.parametrize(("site", "depths"), [("after", (2, 3)), ("between", (1, 2))])
def test_depth_depends_on_where_in_its_block_a_step_acts(site: str, depths: tuple) -> None:
    topk = dict(type="cropr_mm.AttnTopK", site=site)
    found = record(some_images(1), **PRUNE | dict(reducer=topk))
    assert (found.steps, found.depths, found.num_keep) == ((1, 2), depths, (9, 4))
    values, counts = np.unique(mean_depth(found), return_counts=True)
    assert values.tolist() == [*depths, 4]
    assert counts.tolist() == [7, 5, 4]


def test_patches_belong_to_their_nearest_medoid() -> None:
    # One-dimensional tokens; the grid has a cell more, which left before.
    x = torch.tensor([0.0, 1, 2, 10, 11, 14])[None, :, None]
    tokens = Tokens(x, torch.tensor([[5, 1, 2, 3, 6, 0]]), (1, 7))
    kept = Tokens(x[:, [1, 5]], torch.tensor([[1, 0]]), (1, 7))
    medoids = medoid_of_patches(KMedoids(1), None, tokens, kept)
    assert medoids.tolist() == [[0, 1, 1, 0, 4, 1, 0]]
    last = Tokens(x[:, [5]], torch.tensor([[0]]), (1, 7))
    again = medoid_of_patches(KMedoids(1), medoids, kept, last)
    assert again.tolist() == [[0, 0, 0, 0, 4, 0, 0]]


def test_medoids_are_kept_patches_and_have_clusters() -> None:
    images = some_images()
    found = record(images, **MEDOIDS)
    assert not found.merges
    for i in range(len(images)):
        for block, kept in found.kept(i).items():
            medoids = found.clusters[block][i]
            assert set(medoids) == kept
            assert all(medoids[patch] == patch for patch in kept)
    first, second = found.clusters.values()
    for fine, coarse in zip(first, second, strict=True):
        assert (coarse[fine] == coarse).all(), "patches go where their medoid goes"


def test_centers_are_patches_one_in_each_cluster() -> None:
    images = some_images()
    torch.manual_seed(3)  # of the noise that breaks ties
    found = record(images, **CENTERS)
    assert found.merges
    for i in range(len(images)):
        kept = found.kept(i)
        assert [len(patches) for patches in kept.values()] == [9, 5]
        assert kept[2] < kept[1]
        for block, patches in kept.items():
            names = found.clusters[block][i]
            assert len({names[patch] for patch in patches}) == len(patches)


def test_medoids_and_centers_are_compared_as_patches_and_as_clusters() -> None:
    images = some_images()
    medoids, centers = record(images, **MEDOIDS), record(images, **CENTERS)
    found = compare_records(medoids, centers)
    assert [step["mean_kept"] for step in found["patches"]] == [[9, 9], [5, 5]]
    assert all(0 < step["intersection_over_union"]["mean"] < 1 for step in found["patches"])
    assert len(found["clusters"]) == 2
    assert "clusters" in compare_records(medoids, record(images, **MERGE))
    pruned = record(images, **PRUNE)
    assert "clusters" not in compare_records(centers, pruned)
    assert "patches" in compare_records(centers, pruned)
    assert compare_records(medoids, medoids)["clusters"][0]["nmi"]["mean"] == pytest.approx(1)


def test_the_coarser_model_is_the_same_one_in_all_images() -> None:
    many = written(clusters={2: np.array([[0, 1, 2, 2], [0, 0, 0, 0]])}, steps=(2,), num_keep=(3,))
    few = written(clusters={2: np.array([[0, 0, 0, 1], [0, 1, 1, 1]])}, steps=(2,), num_keep=(2,))
    # In the second image only one of the three slots is in use, which is no coarser clustering.
    expected = [
        cluster_agreement(coarse, fine)
        for fine, coarse in zip(many.clusters[2], few.clusters[2], strict=True)
    ]
    assert [agreement.homogeneity for agreement in expected] == pytest.approx([0.3836885, 0])
    for pair in ((many, few), (few, many)):
        (step,) = compare_records(*pair)["clusters"]
        assert step["clusters"] == [r.num_keep[0] for r in pair]
        for name in ("homogeneity", "completeness", "nmi"):
            values = [getattr(agreement, name) for agreement in expected]
            assert step[name]["mean"] == pytest.approx(np.mean(values))


def test_a_step_at_which_nothing_leaves_is_a_step() -> None:
    images = some_images()
    all_stay = dict(type="cropr_mm.ExplicitTokens", num_keep={1: 16, 2: 4})
    found = record(images, **PRUNE | dict(schedule=all_stay))
    assert [len(kept) for kept in found.kept(0).values()] == [16, 4]
    steps = compare_records(record(images, **PRUNE), found)["patches"]
    assert [(step["blocks"], step["mean_kept"]) for step in steps] == [
        ([1, 1], [9, 16]),
        ([2, 2], [4, 4]),
    ]
    merged = record(images, **MERGE | dict(schedule=dict(all_stay, num_keep={1: 16, 2: 9})))
    assert [len(np.unique(merged.clusters[b][0])) for b in (1, 2)] == [16, 9]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for options in (PRUNE, MERGE, MEDOIDS, {}):
        found = record(some_images(), **options)
        found.save(tmp_path / "tokens.npz")
        again = TokenRecord.load(tmp_path / "tokens.npz")
        assert (again.grid, again.num_blocks) == (found.grid, found.num_blocks)
        for name in ("steps", "depths", "num_keep", "merges"):
            assert getattr(again, name) == getattr(found, name)
        assert list(again.features) == list(found.features)
        assert list(again.clusters) == list(found.clusters)
        for block, values in found.features.items():
            assert np.array_equal(again.features[block], values)
        assert (again.left_after is None) == (found.left_after is None)
        assert np.array_equal(again.cells, found.cells)
        assert np.array_equal(again.outputs, found.outputs)
    shown = written([[-1] * 4], shown=(7,), pictures=np.arange(48).reshape(1, 4, 4, 3).astype("u1"))
    shown.save(tmp_path / "shown.npz")
    again = TokenRecord.load(tmp_path / "shown.npz")
    assert again.shown == (7,)
    assert np.array_equal(again.pictures, shown.pictures)


def test_some_patches_of_the_last_map_are_recorded() -> None:
    model, images = encoder(**PRUNE), some_images()
    with torch.no_grad():
        (features,) = model(images)
    found = record(images, **PRUNE)
    assert len(found.cells) == 16
    assert found.outputs.shape == (len(images), 16, features.shape[1])
    for place, cell in enumerate(found.cells):
        expected = features.flatten(2)[:, :, cell]
        np.testing.assert_allclose(found.outputs[:, place], expected, rtol=1e-5, atol=1e-6)
    assert record(images, **PRUNE, out_type="avg_featmap").outputs is None


def test_features_are_drawn_where_there_are_maps_of_patches(
    figures: list[Figure], tmp_path: Path
) -> None:
    records = {"prune": record(some_images(), **PRUNE), "merge": record(some_images(), **MERGE)}
    assert draw_features(records, tmp_path / "features.png") == ["prune"]
    panel, bar = figures[0].axes
    assert panel.get_title() == "prune"
    (points,) = panel.collections
    assert points.get_offsets().shape == (5 * 16, 2)
    left = records["prune"].left_after.reshape(-1)  # all 16 cells are recorded
    blocks = np.where(left < 0, 4, left + 1)
    np.testing.assert_array_equal(points.get_array(), blocks)
    assert set(blocks) == {2, 3, 4}
    assert "4: never" in bar.get_ylabel()
    assert draw_features({"merge": records["merge"]}, tmp_path / "none.png") == []
    assert not (tmp_path / "none.png").exists()


def test_neighbors_tell_whether_patches_that_left_together_lie_together() -> None:
    block = np.repeat([1, 2], 20)
    apart = np.stack([block * 100.0, np.arange(40.0)], axis=1)
    chance = 2 * 20 * 19 / (40 * 39)
    assert neighbors_of_one_block(apart, block) == {"share": 1, "chance": pytest.approx(chance)}
    mixed = neighbors_of_one_block(
        np.random.default_rng(0).normal(size=(2000, 2)), np.arange(2000) % 2
    )
    assert mixed["share"] == pytest.approx(mixed["chance"], abs=0.02)


def test_depth_maps_are_drawn_of_encoders_that_drop(figures: list[Figure], tmp_path: Path) -> None:
    left = [[-1, -1, 5, 2], [2, -1, 5, -1]]
    records = {
        "prune": written(left),
        "dense": written([[-1] * 4] * 2, steps=(), depths=(), num_keep=()),
        "merge": written(clusters={2: np.zeros((2, 4), np.int64)}),
        "other": written([[5, -1, -1, 2], [5, 2, -1, -1]]),
    }
    assert draw_depth_maps(records, tmp_path / "maps.png") == ["prune", "other"]
    one, other, bar = figures[0].axes
    assert [panel.get_title() for panel in (one, other)] == ["prune", "other"]
    (image,) = one.images
    assert image.get_array().tolist() == [[8.5, 13], [7, 8.5]], "blocks count from 1"
    for panel in (one, other):
        assert panel.images[0].get_clim() == (7, 13), "one scale for all"
    assert "never: 13" in bar.get_ylabel()
    assert (tmp_path / "maps.png").exists()
    assert draw_depth_maps({"dense": records["dense"]}, tmp_path / "none.png") == []


def test_tokens_of_images_are_drawn_step_by_step(figures: list[Figure], tmp_path: Path) -> None:
    photo = np.full((1, 16, 16, 3), 100, np.uint8)
    shown = dict(shown=(1,), pictures=photo)
    records = {
        "prune": written([[-1, -1, -1, -1], [2, -1, 5, -1]], **shown),
        "merge": written(
            clusters={2: np.array([[0] * 4, [0, 1, 2, 2]]), 5: np.array([[0] * 4, [0, 1, 1, 1]])},
            **shown,
        ),
        "dense": written([[-1] * 4] * 2, steps=(), depths=(), num_keep=(), **shown),
    }
    assert draw_tokens(records, tmp_path / "tokens.png") == ["prune", "merge"]
    titles = [axis.get_title() for axis in figures[0].axes]
    assert titles == [
        *("prune, image 2", "block 3: 3 patches", "block 6: 2 patches"),
        *("merge, image 2", "block 3: 3 clusters", "block 6: 2 clusters"),
    ]

    def cells(place: int) -> np.ndarray:
        """Whether the middle of each patch shows the image."""
        picture = np.asarray(figures[0].axes[place].images[0].get_array())
        middle = picture[96::192, 96::192].reshape(4, 3)  # 16 pixels become 384
        return (middle == 100).all(axis=1)

    assert [cells(place).tolist() for place in range(6)] == [
        [True] * 4,
        [False, True, True, True],
        [False, True, False, True],
        [True] * 4,
        [True, True, False, False],
        [True, False, False, False],
    ]
    entries = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert entries[:2] == ["left at block 3", "left at block 6"]
    assert entries[2].startswith("clusters: ")


def test_one_encoder_is_summarized_alone() -> None:
    found = summarize_record(written([[-1, -1, 5, 2], [2, 5, 5, 2]]))
    assert found["steps"] == [
        {"block": 2, "kept": [2.5, 2, 3]},
        {"block": 5, "kept": [1.0, 0, 2]},
    ]
    assert found["depth_map"] == [[7.5, 9], [6, 3]]
    text = format_summary("a", found).splitlines()
    assert text[0] == "a, 2 images of 2 x 2 patches"
    assert [line.split() for line in text[1:]] == [
        ["block", "patches", "kept", "least", "most"],
        ["3", "2.5", "2", "3"],
        ["6", "1", "0", "2"],
    ]
    merged = {2: np.array([[0, 0, 0, 1], [0, 1, 2, -1]])}
    found = summarize_record(written(clusters=merged, steps=(2,), depths=(3,), num_keep=(3,)))
    assert found["steps"] == [{"block": 2, "clusters": 2.5, "largest": 2.0}]
    assert found["depth_map"] is None
    assert format_summary("a", found).splitlines()[1].split()[:2] == ["block", "clusters"]
    dense = summarize_record(record(some_images()))
    assert (dense["steps"], dense["depth_map"], dense["neighbors"]) == ([], None, None)
    assert format_summary("d", dense) == "d, 5 images of 4 x 4 patches: all patches stay"
    both = summarize_record(record(some_images(), **MEDOIDS))["steps"][0]
    assert (both["kept"], both["clusters"]) == ([9.0, 9, 9], 9.0)


def test_correlations_that_say_nothing_are_left_out() -> None:
    few, many = (record(some_images(n), **PRUNE) for n in (16, 17))  # of 16 features
    found = compare_records(few, few)
    assert {entry["pwcca"] for entry in found["features"]} == {None}
    assert "more images than features, got 16 of 16" in format_similarity(("a", "b"), found)
    found = compare_records(many, many)
    assert found["features"][0]["pwcca"] == pytest.approx(0, abs=1e-6)
    assert "PWCCA is left out" not in format_similarity(("a", "b"), found)
    alike = proxy_correlations(
        {"a": compare_records(few, few), "b": compare_records(few, few)}, dict(f=1, a=2, b=3), "f"
    )
    assert not any("pwcca" in name for name in alike["correlations"])
    assert "features, cka, 1" in alike["correlations"]


def test_two_that_prune_are_compared_by_their_patches() -> None:
    images = some_images(40)
    variance = record(images, **PRUNE)
    random = record(images, **PRUNE | dict(reducer=dict(type="cropr_mm.RandomPruner")))
    same = compare_records(variance, variance)
    assert [step["intersection_over_union"]["mean"] for step in same["patches"]] == [1, 1]
    assert same["depth_maps"]["earth_movers_distance_cells"] == 0
    assert same["features"][0]["procrustes"] == pytest.approx(0, abs=1e-6)
    found = compare_records(variance, random)
    first, second = found["patches"]
    assert (first["blocks"], second["blocks"]) == ([1, 1], [2, 2])
    assert first["mean_kept"] == [9, 9]
    area = first["intersection_over_area"]
    assert area["mean"] == pytest.approx(9 / 16, abs=0.08)  # what chance gives
    assert area["least"] == pytest.approx(2 / 9)
    assert second["intersection_over_area"]["mean"] == pytest.approx(4 / 16, abs=0.08)
    text = format_similarity(("variance", "random"), found)
    assert text.startswith("variance and random, 40 images")
    assert [line.split()[:2] for line in text.splitlines()[3:5]] == [["2", "9"], ["3", "4"]]
    mixed = format_similarity(("a", "b"), compare_records(variance, record(images, **MERGE)))
    assert "no overlap nor agreement" in mixed


def test_overlap_is_a_share_of_the_smaller_set_whichever_comes_first() -> None:
    one_step: dict[str, Any] = dict(steps=(2,), depths=(3,))
    many = written([[-1, -1, -1, 2]] * 2, num_keep=(3,), **one_step)
    few = written([[-1, 2, 2, -1]] * 2, num_keep=(2,), **one_step)
    for pair in ((many, few), (few, many)):
        (step,) = compare_records(*pair)["patches"]
        assert step["mean_kept"] == [r.num_keep[0] for r in pair]
        # One patch of two or three in common, which is also the least that four patches allow.
        assert step["intersection_over_area"] == dict(mean=0.5, std=0, least=0.5)
        assert step["intersection_over_union"] == dict(mean=0.25, std=0, least=0.25)


def test_two_that_merge_are_compared_by_their_clusters() -> None:
    images = some_images()
    found = compare_records(record(images, **MERGE), record(images, seed=7, **MERGE))
    assert "patches" not in found
    assert [step["blocks"] for step in found["clusters"]] == [[1, 1], [2, 2]]
    steps = [[r.assignment for r in results(images, seed=s, **MERGE)] for s in (0, 7)]
    for number, step in enumerate(found["clusters"]):
        expected = []
        for i in range(len(images)):
            # Every patch's slot after one step, or after both.
            names = [first[i] if number == 0 else last[i][first[i]] for first, last in steps]
            expected.append(normalized_mutual_info_score(*names))
        assert step["nmi"]["mean"] == pytest.approx(np.mean(expected))
        assert step["nmi"]["std"] == pytest.approx(np.std(expected))
    same = compare_records(record(images, **MERGE), record(images, **MERGE))
    assert [step["nmi"]["mean"] for step in same["clusters"]] == pytest.approx([1, 1])
    assert "agreement of clusters" in format_similarity(("a", "b"), found)


def test_similarities_are_correlated_with_scores_where_all_models_have_them() -> None:
    images = some_images(40)
    topk = dict(type="cropr_mm.AttnTopK")
    others = {
        "random": record(images, **PRUNE | dict(reducer=dict(type="cropr_mm.RandomPruner"))),
        "attention": record(images, **PRUNE | dict(reducer=topk)),
        "medoids": record(images, **MEDOIDS | dict(schedule=PRUNE["schedule"])),
    }
    first = record(images, **PRUNE)
    results = {name: compare_records(first, other) for name, other in others.items()}
    # The more patches both keep at the first step, the better.
    overlap = {
        name: r["patches"][0]["intersection_over_union"]["mean"] for name, r in results.items()
    }
    assert len(set(overlap.values())) == 3
    found = proxy_correlations(results, {"first": 2.0, **overlap}, "first")
    assert found["correlations"]["IoU, step 1"] == pytest.approx(dict(spearman=-1, kendall=-1))
    assert "features, pwcca, 3" in found["correlations"]
    assert not any("NMI" in name for name in found["correlations"]), "only one has clusters"
    assert "IoU, step 1    " in format_proxies(found)
    alike = proxy_correlations(results, dict.fromkeys(["first", *others], 1.0), "first")
    assert set(alike["correlations"].values()) == {None}
    with pytest.raises(ValueError, match="three models or more, the first one included, got 2"):
        proxy_correlations({"random": results["random"]}, {"first": 1, "random": 0}, "first")


@torch.no_grad()
def test_features_are_those_behind_the_block() -> None:
    images, model = some_images(), encoder()
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _args, output: seen.append(output[0][:, 0]))
    model(images)
    found = record(images).features
    for block, values in found.items():
        np.testing.assert_allclose(values, seen[block].numpy(), rtol=1e-5, atol=1e-6)


def test_a_dense_encoder_has_features_only() -> None:
    images = some_images(40)
    found = compare_records(record(images), record(images, **MERGE))
    assert "clusters" not in found
    assert [entry["blocks"] for entry in found["features"]] == [[1, 1], [2, 2], [3, 3]]
    assert found["features"][0]["cka"] > found["features"][2]["cka"] > 0
    assert found["features"][0]["cka"] == pytest.approx(1), "the same weights, nothing merged yet"


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same images, got 5 of \(4, 4\) and 4 of"):
        compare_records(record(some_images(), **PRUNE), record(some_images(4), **PRUNE))
    with pytest.raises(ValueError, match=r"expected blocks of 0 to 3, got \[1, 4\]"):
        TokenRecorder(encoder(), (1, 4))
    with pytest.raises(ValueError, match="an encoder that ran"):
        TokenRecorder(CroprViT("vit_tiny_patch16_224")).record()
