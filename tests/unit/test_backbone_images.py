"""Images of another kind are named by the encoder, not by a product deep inside."""

import pytest
import torch

from cropr_mm import CroprCvT, CroprPVT, CroprViT

ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=8, img_size=32)
WRONG = {
    "gray": torch.zeros(2, 1, 32, 32),
    "four channels": torch.zeros(2, 4, 32, 32),
    "one image": torch.zeros(3, 32, 32),
    "channels last": torch.zeros(2, 32, 32, 3),
    "bytes": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_images_are_named(kind: str) -> None:
    img = WRONG[kind]
    shape = ", ".join(map(str, img.shape))
    message = rf"of shape \(B, 3, H, W\) in floating point, got shape \({shape}\) and {img.dtype}"
    with pytest.raises(ValueError, match=message):
        CroprViT(arch=ARCH)(img)
    with pytest.raises(ValueError, match=message):
        CroprPVT(arch="pvt_v2_b0", img_size=32)(img)
    with pytest.raises(ValueError, match=message):
        CroprCvT(arch="cvt_13", img_size=32)(img)


def test_images_of_other_channels_and_precision_pass() -> None:
    CroprViT(arch=ARCH, in_channels=4)(torch.zeros(1, 4, 32, 32))
    CroprViT(arch=ARCH).double()(torch.zeros(1, 3, 32, 32, dtype=torch.float64))
