"""What a timing ran on has a name."""

import platform
import subprocess
from pathlib import Path

import pytest
import torch

from cropr_mm.profiling import environment
from cropr_mm.profiling.environment import git_commit, machine_name, settings_hash


def test_machine_name_of_a_cpu_is_that_of_its_first_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU: fast @ 2.60GHz\n"
        "processor\t: 1\nmodel name\t: Other\n"
    )
    monkeypatch.setattr(environment, "Path", lambda file: tmp_path / Path(file).name)
    assert machine_name("cpu") == "Some CPU: fast @ 2.60GHz"
    with (tmp_path / "cpuinfo").open("a") as file:
        file.write("flags\t\t: fpu avx2 avx512f avx512_bf16 amx\n")
    assert machine_name("cpu") == "Some CPU: fast @ 2.60GHz, avx512_bf16"


def test_machine_name_without_proc_is_what_the_platform_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "Path", lambda _: tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert machine_name("cpu") == "arm64"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine_name("cpu") == "arm"


def test_machine_name_of_a_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {torch.device("cuda:1"): "Some GPU"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert machine_name("cuda:1") == "Some GPU"


def test_a_commit_is_that_of_the_own_checkout_and_dirty_if_code_is_changed(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "benchmarks/results").mkdir(parents=True)
    (root / "cropr_mm").mkdir()
    code, result = root / "cropr_mm/a.py", root / "benchmarks/results/a.json"
    for file in (code, result):
        file.write_text("1")
    assert git_commit(root) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for args in (["init"], ["add", "."], [*identity, "commit", "-m", "first"]):
        subprocess.run(["git", *args], cwd=root, check=True, capture_output=True)
    commit = git_commit(root)
    assert commit is not None
    assert len(commit) == 40
    result.write_text("2")
    assert git_commit(root) == commit
    code.write_text("2")
    assert git_commit(root) == f"{commit}-dirty"
    assert git_commit(root / "cropr_mm") is None, "inside of another repository"


def test_a_checkout_without_git_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    assert git_commit(tmp_path) is None, "it is damaged"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None


def test_a_hash_stands_for_settings_and_not_for_their_order() -> None:
    first = settings_hash({"a": 1, "b": (2, 3)})
    assert first == settings_hash({"b": [2, 3], "a": 1})
    assert first != settings_hash({"a": 1, "b": [3, 2]})
    assert len(first) == 12
