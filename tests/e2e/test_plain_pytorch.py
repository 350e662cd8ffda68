"""The encoder without configs and runners: timm's weights, pruned and dense."""

import timm
import torch

from cropr_mm import CroprViT
from cropr_mm.checkpoints import load_backbone


def test_an_image_is_encoded_pruned_and_dense_with_weights_of_timm() -> None:
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="").eval()
    model = CroprViT(
        "vit_tiny_patch16_224",
        reducer=dict(type="cropr_mm.AttnTopK"),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[2, 5, 8]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    ).eval()
    load_backbone(model, source.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        (pruned,), (dense,) = model(image), model.unpruned()(image)
        expected = source(image)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-4)
    assert pruned.shape == dense.shape == (1, 192, 14, 14)
    assert not torch.allclose(pruned, dense, atol=1e-3)
