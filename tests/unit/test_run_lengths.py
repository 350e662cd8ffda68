"""Run lengths are those of pycocotools, and damaged strings are told from whole ones."""

import numpy as np
import pytest

from cropr_mm.engine.preflight.run_lengths import decode_runs

mask_utils = pytest.importorskip("pycocotools.mask")


def encoded(mask: np.ndarray) -> str:
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def test_pixels_are_those_of_pycocotools() -> None:
    random = np.random.default_rng(0)
    masks = [np.zeros((5, 7)), np.ones((5, 7)), np.eye(300, 200), np.ones((1, 1))]
    for _ in range(200):
        height, width = random.integers(1, 400, 2)
        noise = random.random((height, width)) < random.random() ** 3
        cells = random.random((height // 40 + 1, width // 40 + 1)) < 0.4
        masks += [noise, np.kron(cells, np.ones((40, 40)))[:height, :width]]
    pixels, filled = decode_runs([encoded(mask) for mask in masks])
    assert pixels.tolist() == [mask.size for mask in masks]
    assert filled.tolist() == [mask.sum() for mask in masks]


def test_damage_stays_with_its_mask() -> None:
    whole = encoded(np.eye(40, 40))
    negative = "J"  # 26: five bits of a negative number
    damaged = ["\x01", whole[:-1] + chr(ord(whole[-1]) + 32), "~", negative, "é", "o" * 9 + "1"]
    texts = [text for bad in damaged for text in (whole, bad)] + ["", whole]
    pixels, filled = decode_runs(texts)
    assert pixels.tolist() == [1600, -1] * len(damaged) + [0, 1600]
    assert filled.tolist() == [40, -1] * len(damaged) + [0, 40]


def test_a_cut_string_has_fewer_pixels() -> None:
    whole = encoded(np.ones((6, 9)) * (np.arange(9) % 3 > 0))
    for end in range(len(whole)):
        (pixels,), _ = decode_runs([whole[:end]])
        assert pixels != 54


def test_no_masks_are_none() -> None:
    assert [array.shape for array in decode_runs([])] == [(0,), (0,)]
    assert [array.tolist() for array in decode_runs([""])] == [[0], [0]]
