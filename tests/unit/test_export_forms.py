"""Operations that have a form in exported graphs choose there what they choose in PyTorch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.budget.timing import time_plans
from cropr_mm.budget.work import Plan
from cropr_mm.ops.select import select_topk
from cropr_mm.ops.window import window_major_order, window_slots
from cropr_mm.tokens.gather import ascending_order, take_entries

NAN, INF = float("nan"), float("inf")
SPECIAL = [0.0, -0.0, NAN, INF, -INF, 1.2e-38, -1.2e-38, 1.0, -1.0, 3.4e38, -3.4e38]
NUM_TOKENS = 63
Run = Callable[[NDArray[np.float32]], tuple[NDArray[np.int64], NDArray[np.int64]]]


class Selection(nn.Module):
    """Selection alone, as a graph."""

    def __init__(self, num_keep: int) -> None:
        super().__init__()
        self.num_keep = num_keep

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return select_topk(scores, self.num_keep)


def in_runtimes(model: nn.Module, example: Tensor, file: Path) -> dict[str, Run]:
    """The model as an ONNX file, as a function of ONNX Runtime and as one of OpenVINO."""
    pytest.importorskip("onnxscript", reason="needs cropr_mm[export]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs cropr_mm[export]")
    openvino = pytest.importorskip("openvino", reason="needs cropr_mm[export]")
    torch.onnx.export(model, (example,), str(file), dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(file), "CPU", hint)
    return {
        "onnxruntime": lambda x: tuple(session.run(None, {session.get_inputs()[0].name: x})),
        "openvino": lambda x: (compiled(x)[0], compiled(x)[1]),
    }


@pytest.mark.parametrize("num_keep", [1, 31, 32, 62])
def test_selection_in_other_runtimes(num_keep: int, tmp_path: Path) -> None:
    runs = in_runtimes(Selection(num_keep), torch.zeros(4, NUM_TOKENS), tmp_path / "select.onnx")
    generator = torch.Generator().manual_seed(num_keep)
    size = (4, NUM_TOKENS)
    drawn = torch.randint(0, len(SPECIAL), size, generator=generator)
    cases = {
        "distinct": torch.randn(size, generator=generator),
        "ties": torch.randint(-2, 3, size, generator=generator).float(),
        "special": torch.tensor(SPECIAL)[drawn],
        "constant": torch.full(size, -1.5),
        "all_nan": torch.full(size, NAN),
    }
    for case, scores in cases.items():
        expected = select_topk(scores, num_keep)
        for runtime, run in runs.items():
            for ours, theirs in zip(expected, run(scores.numpy()), strict=True):
                np.testing.assert_array_equal(theirs, ours, err_msg=f"{runtime}, {case}")


def test_raster_ids_are_ordered_as_a_sort_does() -> None:
    index = torch.rand(3, 40).argsort(1)[:, :17]
    assert torch.equal(ascending_order(index, 40), index.argsort(1))


@pytest.mark.parametrize("grid", [(4, 6), (2, 2), (5, 6), (4, 3)])
def test_window_order_sorts_the_slots(grid: tuple[int, int]) -> None:
    assert torch.equal(window_major_order(grid, 2), window_slots(grid, 2).argsort())


def test_entries_of_a_table_are_those_of_indexing() -> None:
    index = torch.randint(0, 7, (2, 5))
    for table in (torch.randn(7), torch.randn(7, 3)):
        assert torch.equal(take_entries(table, index), table[index])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_windows_and_dense_models_can_be_traced() -> None:
    arch = dict(embed_dim=16, depth=4, num_heads=2, patch_size=4, cls_token=False, rope="eva")
    pruned = CroprViT(
        arch,
        img_size=16,
        window_size=2,
        global_block_indexes=[1],
        survivor_order="raster",
        reducer=dict(type="cropr_mm.VariancePruner"),
        schedule=dict(type="cropr_mm.WindowStages", blocks=[0]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    ).eval()
    images = torch.randn(2, 3, 16, 16)
    for model in (pruned, CroprViT(dict(arch, cls_token=True, rope=None), img_size=16).eval()):
        with torch.no_grad():
            traced = torch.jit.trace(model, torch.randn(2, 3, 16, 16), check_trace=False)
            assert torch.equal(traced(images)[0], model(images)[0])


def test_plans_of_a_search_are_timed_in_the_runtime_that_will_run() -> None:
    pytest.importorskip("onnxscript", reason="needs cropr_mm[export]")
    pytest.importorskip("onnxruntime", reason="needs cropr_mm[export]")
    encoder = CroprViT(
        arch=dict(embed_dim=16, depth=3, num_heads=2, patch_size=8, img_size=32),
        reducer=dict(type="cropr_mm.VariancePruner"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 16}),
    ).eval()
    plans: dict[str, Plan] = {"dense": {}, "half": {0: 8}}
    shown: dict[str, list[int]] = {}

    @contextmanager
    def show_rounds(title: str, rounds: int) -> Iterator[Callable[[int], None]]:
        assert rounds == 2
        yield shown.setdefault(title, []).append

    times = time_plans(encoder, plans, "onnx", torch.randn(1, 3, 32, 32), 2, show_rounds)
    assert shown == {"2 encoders, onnx": [1, 2], "times of 2 encoders": [1, 2]}
    assert {name: len(found) for name, found in times.times.items()} == {"dense": 2, "half": 2}
    assert isinstance(encoder(torch.randn(1, 3, 32, 32))[0], Tensor)


def test_every_plan_of_a_search_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, inputs: object, **options: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda fn, mode, **options: compiler(fn, backend=count, **options)
    )
    encoder = CroprViT(
        arch=dict(embed_dim=16, depth=3, num_heads=2, patch_size=8, img_size=32),
        reducer=dict(type="cropr_mm.VariancePruner"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 16}),
    ).eval()
    plans: dict[str, Plan] = {str(n): {0: n} for n in range(2, 14)}  # torch keeps 8 by default
    show = contextmanager(lambda title, rounds: iter([lambda done: None]))
    time_plans(encoder, plans, "compile", torch.randn(1, 3, 32, 32), 1, show)
    assert len(graphs) == len(plans)
