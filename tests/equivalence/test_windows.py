"""Window attention and relative positions against a naive partition of the image."""

import pytest
import torch
import torch.nn.functional as F
from naive import naive_forward, randomize

from cropr_mm import CroprViT
from cropr_mm.layers.attention import Geometry
from cropr_mm.ops.window import pad_to_windows
from cropr_mm.structures import Tokens

TOLERANCE = 1e-5
EVA = dict(embed_dim=24, depth=4, num_heads=2, mlp="swiglu", attn_bias="qv", rope="eva")
DINO = dict(EVA, mlp="gelu", attn_bias="qkv", rope="dinov3", rope_temperature=100.0)
PLAIN = dict(embed_dim=24, depth=4, num_heads=2)


@pytest.mark.parametrize("grid", [(4, 8), (5, 7), (3, 6)], ids=["divisible", "ragged", "one_axis"])
@pytest.mark.parametrize(
    ("arch", "window_rope", "rel_pos"),
    [
        (EVA, "origin", False),
        (EVA, "slot", False),
        (DINO, "origin", False),
        (DINO, "slot", False),
        (PLAIN, "slot", True),
    ],
    ids=["eva-origin", "eva-slot", "dino-origin", "dino-slot", "plain-relpos"],
)
def test_windowed_model_equals_naive_partition(
    grid: tuple, arch: dict, window_rope: str, rel_pos: bool
) -> None:
    torch.manual_seed(0)
    size = (grid[0] * 4, grid[1] * 4)
    model = CroprViT(
        arch,
        img_size=size,
        patch_size=4,
        with_cls_token=False,
        window_size=2 if grid == (4, 8) else 3,
        global_block_indexes=(1, 3),
        window_rope=window_rope,
        use_rel_pos=rel_pos,
    ).eval()
    randomize(model)
    img = torch.randn(1, 3, *size)
    with torch.no_grad():
        (got,) = model(img)
        expected = naive_forward(model, img, model.window_size, (1, 3))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_batch_images_do_not_mix_in_windows() -> None:
    torch.manual_seed(0)
    model = CroprViT(EVA, img_size=20, patch_size=4, with_cls_token=False, window_size=3).eval()
    randomize(model)
    img = torch.randn(3, 3, 20, 20)
    with torch.no_grad():
        together = model(img)[0]
        alone = torch.cat([model(one[None])[0] for one in img])
    torch.testing.assert_close(together, alone, rtol=TOLERANCE, atol=TOLERANCE)


def test_global_relative_positions_resize_to_another_grid() -> None:
    torch.manual_seed(0)
    model = CroprViT(
        PLAIN, img_size=16, patch_size=4, with_cls_token=False, use_rel_pos=True
    ).eval()
    randomize(model)
    bigger = CroprViT(
        PLAIN, img_size=(24, 16), patch_size=4, with_cls_token=False, use_rel_pos=True
    ).eval()
    state = model.state_dict()
    grid = bigger.pos_embed.shape[1]
    state["pos_embed"] = torch.zeros(1, grid, 24)
    model.pos_embed.data.zero_()
    for name in [n for n in state if n.endswith("rel_pos_h")]:
        old = state[name].t()[None]
        state[name] = F.interpolate(old, size=11, mode="linear")[0].t()
    bigger.load_state_dict(state)
    img = torch.randn(1, 3, 24, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(img)[0], bigger(img)[0], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("needs", [("cls_row", "cls_heads"), ("column_mean", "column_heads")])
def test_prefix_sees_all_tokens_and_every_window_sees_it(needs: tuple[str, ...]) -> None:
    # 5 x 7 cells in windows of 3: filled up to 6 x 9, and the prefix does not see what was added.
    arch = dict(embed_dim=24, depth=1, num_heads=2, num_registers=2)
    model = CroprViT(arch, img_size=(20, 28), patch_size=4, window_size=3).eval()
    randomize(model)
    attn, prefix = model.blocks[0].attn, 3
    x = torch.randn(1, prefix + 35, 24)
    index = model.positions.order[None]
    tokens = Tokens(x, index, model.grid, prefix)
    geometry = model.positions.geometry(tokens, model.positions.tables(model.grid, x.device), True)
    y = torch.randn_like(x)
    padded = pad_to_windows(y, geometry.slots, geometry.num_slots)
    with torch.no_grad():
        got, signals = attn(padded, geometry, frozenset(needs))
        everything, among_all = attn(y, Geometry(), frozenset(needs))
        torch.testing.assert_close(got[:, :prefix], everything[:, :prefix])
        for window in range(6):
            rows = [*range(prefix), *range(prefix + 9 * window, prefix + 9 * window + 9)]
            alone, _ = attn(padded[:, rows], Geometry(), frozenset(needs))
            torch.testing.assert_close(got[:, rows[prefix:]], alone[:, prefix:])
    if "cls_row" in needs:
        row = signals["cls_row"].index_select(1, geometry.slots)
        torch.testing.assert_close(row, among_all["cls_row"])
        assert signals["cls_heads"].shape == (1, geometry.num_slots, 2)
    else:
        column = signals["column_heads"].mean(dim=2)
        torch.testing.assert_close(signals["column_mean"], column)
        # What a patch gives its window and what it gives the prefix sum to one.
        assert (column[:, :prefix] == 0).all()
        assert (column[:, prefix:].view(6, 9).sum(dim=1) < 1).all()
