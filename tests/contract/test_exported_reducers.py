"""Every method that keeps a fixed number of tokens as they are keeps the same ones elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cropr_mm import CroprViT, reducers
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.parts import EncoderPart, WithKeptIds
from cropr_mm.export.program import trace, write_program
from cropr_mm.export.runtime.session import open_session
from cropr_mm.export.source import check_exportable

ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=8, cls_token=True)
SAMPLING = dict(ARCH, pos_embed=False, conv_stem=4, sampling_steps=3)  # PS-ViT
SCHEDULE = dict(type="cropr_mm.ExplicitTokens", num_keep={0: 9})
EXPORTED: dict[str, dict[str, Any]] = {
    "Cropr": dict(num_classes=3),
    "NonSalient": dict(num_classes=3),
    "AttnTopK": dict(),
    "AttnTopK column_mean": dict(signal="column_mean"),
    "DynamicViT": dict(),
    "RadialPruner": dict(),
    "ShortcutPruner": dict(),
    "VariancePruner": dict(),
}
REFUSED = {
    "RandomPruner": "random numbers",
    "KMedoids": "ONNX has no form for",
    "ToMe": "no cell",
    "EViT": "no cell",
    "ATS": "a number that differs",
}


def encoder(name: str, settings: dict[str, Any], **changes: Any) -> CroprViT:
    model = CroprViT(
        **{
            "arch": ARCH,
            "img_size": 32,
            "reducer": dict(type=f"cropr_mm.{name.split()[0]}", **settings),
            "schedule": SCHEDULE,
            **changes,
        }
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    model.switch_to_deploy()
    return model.eval().requires_grad_(False)


class Several(nn.Module):
    """Several encoders as one graph, since each export takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        encoders = [encoder(name, settings) for name, settings in EXPORTED.items()]
        encoders.append(encoder("Cropr", EXPORTED["Cropr"], arch=SAMPLING))
        for model in encoders:
            for reducer in model.reducers.values():
                check_exportable(reducer)
                if isinstance(reducer, reducers.KeepDecision):
                    reducer.needs = frozenset()
        self.graphs = nn.ModuleList(WithKeptIds(EncoderPart(model), model) for model in encoders)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for graph in self.graphs for output in graph(images))


def test_kept_tokens_are_the_same_in_other_runtimes(tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason="needs cropr_mm[export]")
    model, images = Several(), torch.randn(2, 3, 32, 32)
    program = trace(model, (images,), False)
    files = {"onnx": tmp_path / "several.onnx", "openvino": tmp_path / "several.xml"}
    for form, file in files.items():
        write_program(program, form, file)
    expected = [output.numpy() for output in model(images)]
    for form, file in files.items():
        outputs = open_session(file, form, 1).run(images.numpy())
        names = [*EXPORTED, "Cropr behind progressive sampling"]
        assert len(outputs) == len(expected) == 2 * len(names)
        for i, (ours, theirs) in enumerate(zip(expected, outputs, strict=True)):
            name = f"{form}, {names[i // 2]}"
            if i % 2:
                np.testing.assert_array_equal(theirs, ours, err_msg=name)
            else:
                np.testing.assert_allclose(theirs, ours, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", REFUSED)
def test_other_methods_are_refused_with_the_reason(name: str) -> None:
    pooled = dict(out_type="avg_featmap")
    for reducer in encoder(name, {}, **pooled).reducers.values():
        with pytest.raises(SetupError, match=rf"{name} .*{REFUSED[name]}"):
            check_exportable(reducer)


def test_every_method_is_exported_or_refused() -> None:
    """A new method that only drops tokens has to be in the list above."""
    known = {name.split()[0] for name in EXPORTED} | set(REFUSED)
    abstract = {"TokenPruner"}
    pruners = {
        name
        for name in reducers.__all__
        if issubclass(getattr(reducers, name), reducers.TokenPruner)
    }
    assert pruners - known - abstract == set()
