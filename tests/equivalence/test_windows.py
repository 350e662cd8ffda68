"""Window attention and relative positions against a naive partition of the image."""

import pytest
import torch
import torch.nn.functional as F
from naive import naive_forward, randomize

from cropr_mm import CroprViT

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
