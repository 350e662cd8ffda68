"""Loading runs no code, and still reads everything that mmengine's training writes."""

import os
import pickle
import tarfile
from argparse import Namespace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from forged_files import FORGED, Attack, Forged
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from cropr_mm.checkpoints import register_safe_loader, safe_load


@pytest.fixture
def schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register our loader for one test only."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    register_safe_loader()


class Toy(BaseModel):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        y = self.linear(torch.stack(x) if isinstance(x, list) else x)
        return dict(loss=y.square().sum()) if mode == "loss" else y


class ToyData(BaseDataset):
    """Eight fixed rows."""

    METAINFO: ClassVar[dict[str, Any]] = dict(
        classes=("a", "b"), palette=[(1, 2, 3)], weights=np.ones(2, np.float32)
    )

    def load_data_list(self) -> list[dict]:
        return [dict(row=i) for i in range(8)]

    def __getitem__(self, index: int) -> dict:
        return dict(x=torch.arange(4.0).roll(index) / 8)


def make_runner(folder: Path, name: str, iters: int, scheduler: dict, **options: Any) -> Runner:
    torch.manual_seed(0)
    return Runner(
        Toy(),
        work_dir=str(folder),
        experiment_name=name,
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=ToyData(metainfo=ConfigDict(extra=dict(nested=[1, dict(deep=2)]))),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=dict(by_epoch=False, end=100, **scheduler),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False)),
        custom_hooks=[dict(type="EMAHook", momentum=0.1)],
        default_scope="mmengine",
        log_level="WARNING",
        **options,
    )


SCHEDULERS = [
    dict(type="MultiStepLR", milestones=[1, 3]),
    dict(type="OneCycleLR", eta_max=0.1, total_steps=10),
]


@pytest.mark.usefixtures("schemes")
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: s["type"])
def test_training_checkpoint_resumes_exactly(
    tmp_path: Path, scheduler: dict, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    whole = make_runner(tmp_path / "whole", f"{name}-whole", 4, scheduler)
    whole.train()
    first = make_runner(tmp_path / "part", f"{name}-first", 2, scheduler)
    first.train()
    second = make_runner(
        tmp_path / "part",
        f"{name}-second",
        4,
        scheduler,
        resume=True,
        load_from=str(tmp_path / "part/iter_2.pth"),
    )
    second.train()
    assert second.iter == 4
    assert not torch.equal(first.model.linear.weight, whole.model.linear.weight)
    assert torch.equal(second.model.linear.weight, whole.model.linear.weight)
    ours, theirs = (safe_load(tmp_path / run / "iter_4.pth") for run in ("part", "whole"))
    assert ours["param_schedulers"] == theirs["param_schedulers"]
    assert ours["meta"]["dataset_meta"]["extra"]["nested"][1] == dict(deep=2)
    losses = [ckpt["message_hub"]["log_scalars"]["train/loss"].data[0] for ckpt in (ours, theirs)]
    assert losses[0].shape == (4,)
    np.testing.assert_array_equal(*losses)


def test_training_values_survive(tmp_path: Path) -> None:
    saved = dict(
        state_dict=dict(w=torch.randn(3).half(), p=nn.Parameter(torch.ones(2))),
        history=HistoryBuffer([1.0, 2.0], [1, 1]),
        numbers=[np.float32(1.5), np.float64(2.5), np.int64(3), np.bool_(True)],
        arrays=[np.arange(3, dtype=code) for code in "bhilqBHILQefd"]
        + [np.array(["a", "bc"]), np.zeros((0, 2))],
        dtypes=[np.dtype("int16"), np.dtype("<f8")],
        config=ConfigDict(a=dict(b=[ConfigDict(c=1)])),
        plain={1: None, "s": {True}, "t": (1.5, b"bytes", torch.float16, torch.Size([1]))},
    )
    torch.save(saved, tmp_path / "x.pth")
    loaded = safe_load(tmp_path / "x.pth")
    assert torch.equal(loaded["state_dict"]["w"], saved["state_dict"]["w"])
    assert torch.equal(loaded["state_dict"]["p"], saved["state_dict"]["p"])
    assert loaded["history"].mean() == 1.5
    assert loaded["numbers"] == saved["numbers"]
    assert [type(n) for n in loaded["numbers"]] == [type(n) for n in saved["numbers"]]
    for ours, theirs in zip(loaded["arrays"], saved["arrays"], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert loaded["dtypes"] == saved["dtypes"]
    assert loaded["config"].a.b[0].c == 1
    assert loaded["plain"] == saved["plain"]


def test_files_in_the_older_layout_load(tmp_path: Path) -> None:
    torch.save(dict(w=torch.ones(3)), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(safe_load(tmp_path / "x.pth")["w"], torch.ones(3))


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_numpy_names_of_both_generations_load(tmp_path: Path, module: str) -> None:
    torch.save(dict(n=np.arange(3)), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pth").read_bytes()
    for name in (b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"):
        data = data.replace(name, f"c{module}.multiarray".encode())
    (tmp_path / "x.pth").write_bytes(data)
    np.testing.assert_array_equal(safe_load(tmp_path / "x.pth")["n"], np.arange(3))


def test_command_lines_of_other_projects_load(tmp_path: Path) -> None:
    torch.save(dict(model=dict(w=torch.ones(1)), args=Namespace(lr=0.1)), tmp_path / "x.pth")
    assert safe_load(tmp_path / "x.pth")["args"] == Namespace(lr=0.1)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_pickles_of_arrays_load_and_run_no_code(tmp_path: Path, protocol: int) -> None:
    file, mark = tmp_path / "x.pkl", tmp_path / "mark"
    content = dict(model=dict(w=np.arange(3.0), n=np.int64(3)), __author__="Detectron2")
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = safe_load(file)
    np.testing.assert_array_equal(loaded["model"]["w"], np.arange(3.0))
    assert (loaded["model"]["n"], loaded["__author__"]) == (3, "Detectron2")
    bad = Attack(os.system, f"touch {mark}")
    for more, name in ((bad, "posix.system"), (torch.ones(1), "torch.storage._load_from_bytes")):
        file.write_bytes(pickle.dumps(dict(content, bad=more), protocol=protocol))
        with pytest.raises(ValueError, match=rf"x\.pkl: .*asks for {name};"):
            safe_load(file)
    assert not mark.exists()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    assert safe_load(file)["__author__"] == "Detectron2"
    file.write_bytes(pickle.dumps(content, protocol=protocol)[:-20])
    with pytest.raises(ValueError, match=r"x\.pkl: not a readable checkpoint"):
        safe_load(file)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
@pytest.mark.parametrize("kind", FORGED)
def test_forged_insides_of_arrays_are_refused(kind: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"x.{suffix}"
    if suffix == "pkl":
        file.write_bytes(pickle.dumps(dict(w=FORGED[kind]), protocol=4))
    else:
        torch.save(dict(w=FORGED[kind]), file, pickle_protocol=4)
    with pytest.raises(ValueError, match=r"not a readable checkpoint: expected .*, got"):
        safe_load(file)


def test_byte_order_of_one_array_does_not_touch_the_others(tmp_path: Path) -> None:
    swapped = Forged((3, ">", None, None, None, -1, -1, 0), "f8")
    content = dict(dtype=swapped, w=np.arange(3, dtype=">f4"))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=4))
    loaded = safe_load(tmp_path / "x.pkl")
    assert loaded["dtype"] == np.dtype(">f8")
    assert loaded["w"].tolist() == [0.0, 1.0, 2.0]
    assert np.dtype("f8").isnative


ATTACKS = {
    "system": (os.system, "posix.system"),
    "eval": (eval, "builtins.eval"),
    "import": (__import__, "builtins.__import__"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.usefixtures("schemes")
def test_pickled_code_does_not_run(
    tmp_path: Path, attack: str, zipped: bool, protocol: int
) -> None:
    function, name = ATTACKS[attack]
    mark, file = tmp_path / "mark", tmp_path / "x.pth"
    command = f"touch {mark}" if attack == "system" else f"open({str(mark)!r}, 'w')"
    torch.save(
        dict(state_dict=dict(w=torch.ones(1)), bad=Attack(function, command)),
        file,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    for load in (safe_load, CheckpointLoader.load_checkpoint):
        with pytest.raises(ValueError, match=name) as error:
            load(str(file))
        assert str(file) in str(error.value)
        assert not mark.exists()
    if attack != "import":  # the file is a real attack
        torch.load(file, weights_only=False)
        assert mark.exists()


def test_only_listed_methods_are_reached_through_getattr(tmp_path: Path) -> None:
    torch.save(dict(bad=Attack(getattr, HistoryBuffer, "update")), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth.*getattr"):
        safe_load(tmp_path / "x.pth")


def test_classes_of_the_program_cannot_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save(dict(a=OneCycleParamScheduler), file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    name = b"cmmengine.optim.scheduler.param_scheduler\nOneCycleParamScheduler\n"
    assert name in data
    state = b"N}X\x04\x00\x00\x00hurtK\x01s\x86b"  # (None, {"hurt": 1}), then BUILD
    file.write_bytes(data.replace(name, name + state))
    with pytest.raises(ValueError, match=r"x\.pth"):
        safe_load(file)
    assert not hasattr(OneCycleParamScheduler, "hurt")


def test_safetensors_load(tmp_path: Path) -> None:
    safetensors.torch.save_file(dict(w=torch.ones(3)), tmp_path / "x.safetensors")
    assert torch.equal(safe_load(tmp_path / "x.safetensors")["w"], torch.ones(3))
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        safe_load(tmp_path / "bad.safetensors")


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        safe_load(tmp_path / "no.pth")
    with pytest.raises(ValueError, match="folder"):
        safe_load(tmp_path)
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="expected a dict of tensors, got Tensor"):
        safe_load(tmp_path / "tensor.pth")
    torch.save(dict(w=torch.ones(100)), tmp_path / "cut.pth")
    data = (tmp_path / "cut.pth").read_bytes()
    for size in (0, 10, len(data) // 2):
        (tmp_path / "cut.pth").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.pth: not a readable checkpoint"):
            safe_load(tmp_path / "cut.pth")
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pth"))
    with pytest.raises(ValueError, match="TorchScript"):
        safe_load(tmp_path / "script.pth")
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="tar archive"):
        safe_load(tmp_path / "tar.pth")


@pytest.mark.usefixtures("schemes")
def test_addresses_are_fetched_once_and_pass_the_same_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(url: str, target: str, hash_prefix: str | None, progress: bool) -> None:
        fetched.append((url, hash_prefix))
        torch.save(dict(url=url, w=torch.ones(1)), target)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for name in ("a/model.pth", "b/model.pth", "a/model.pth", "c/vit-0123abcd.pth"):
        url = f"https://host/{name}?download=1"
        assert safe_load(url)["url"] == url
        assert CheckpointLoader.load_checkpoint(url)["url"] == url
    assert [url.rsplit("/", 2)[1] for url, _ in fetched] == ["a", "b", "c"]
    assert [digest for _, digest in fetched] == [None, None, "0123abcd"]


@pytest.mark.usefixtures("schemes")
def test_named_model_zoos_pass_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def record(path: str, map_location: Any = "cpu") -> dict:
        asked.append(path)
        return dict(state_dict={"backbone.w": torch.ones(1), "head.w": torch.ones(1)})

    monkeypatch.setattr("cropr_mm.checkpoints.schemes.safe_load", record)
    load = CheckpointLoader.load_checkpoint
    load("torchvision://resnet50")
    load("open-mmlab://detectron2/resnet50_caffe")
    assert set(load("mmcls://vgg11")["state_dict"]) == {"w"}
    assert all(url.startswith("http") for url in asked)
    assert len(asked) == 3
    with pytest.raises(ValueError, match="torchvision://resnet0"):
        load("torchvision://resnet0")
    with pytest.raises(ValueError, match="pavi"):
        load("pavi://model")


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_byte_that_is_another_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save(dict(w=torch.ones(10_000)), file)
    flip_a_byte(file)
    with pytest.raises(ValueError, match=r"x\.pth: damaged at .*data/0"):
        safe_load(file)
    safe_load(file, "meta")  # only names and shapes


def test_files_without_sums_load(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes sums")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(w=torch.ones(10_000)), tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert safe_load(tmp_path / "x.pth")["w"].sum() == 10_000
