"""Make, check or repair the environment of one stack, from the pins in requirements/.

Started by tools/env.sh with an interpreter that the stack supports. ``--check`` only says, by its
exit status and within milliseconds, whether the environment is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import NoReturn

import accelerator
import mmcv_wheel
from accelerator import EnvError
from env_state import (
    ROOT,
    Stack,
    broken_distributions,
    fault,
    fingerprint,
    installed_files,
    stack_named,
)

# Run by the new environment's interpreter: the imports that everything else rests on.
SMOKE_TEST = """
import os, sys, warnings
warnings.filterwarnings("ignore")
import cv2, numpy, timm, torch, torchvision
import mmcv, mmdet, mmengine, mmpretrain, mmseg
from mmcv.ops import nms
boxes, scores = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9]]), torch.tensor([0.5, 0.9])
for device in sys.argv[1:]:
    assert nms(boxes.to(device), scores.to(device), 0.5)[1].tolist() == [1]
names = (torch, mmcv, mmengine, mmdet, mmseg, mmpretrain, timm)
print(", ".join(f"{module.__name__} {module.__version__}" for module in names))
"""


class Builder:
    """The stages of one run; each prints one line with its time."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.environ = {**os.environ, "VIRTUAL_ENV": str(stack.venv)}
        self.target: accelerator.Target | None = None
        self.devices = ["cpu"]  # where the compiled ops can be tried
        self.environ.setdefault("UV_HTTP_TIMEOUT", "300")  # torch is large, networks are slow

    def build(self, reason: str) -> None:
        """Run all stages; the stamp comes last, so an interrupted run is seen as unfinished."""
        version = ".".join(map(str, sys.version_info[:3]))
        print(f"env {self.stack.name}: {self.stack.venv.name}, Python {version}: {reason}")
        accelerator.torch_backend(dict(os.environ))  # a wrong name is known before work begins
        if not mmcv_wheel.might_be_cached(self.stack.mmcv):
            mmcv_wheel.require_compiler()
        self.stack.stamp.unlink(missing_ok=True)
        start = time.monotonic()
        for stage in (self.venv, self.packages, self.gpu, self.mmcv, self.project, self.imports):
            began = time.monotonic()
            result = stage()
            self.tell(stage.__name__, result, time.monotonic() - began)
        stamp = {
            "fingerprint": fingerprint(self.stack),
            "accelerator": accelerator.describe(),
            "files": [*chain(*installed_files(self.stack.site_packages).values())],
        }
        temporary = self.stack.stamp.with_suffix(".tmp")
        temporary.write_text(json.dumps(stamp))
        temporary.replace(self.stack.stamp)
        self.tell("ready", str(self.stack.python), time.monotonic() - start)

    def tell(self, stage: str, text: str, seconds: float | None = None) -> None:
        """Print one aligned line; a stage that has ended says how long it took."""
        duration = "" if seconds is None else f"{seconds:.1f} s"
        print(f"  {stage:<10}{duration:>9}  {text}", flush=True)

    def run(self, *command: str | Path) -> str:
        """Run a command and return what it printed.

        Raises:
            EnvError: If it fails; holds its error output.
        """
        process = subprocess.Popen(
            [str(part) for part in command],
            env=self.environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, error = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode:
            line = " ".join(str(part) for part in command)
            raise EnvError(f"{line}\nfailed with exit code {process.returncode}:\n{error}{out}")
        return out

    def install(self, *arguments: str | Path) -> None:
        """Install exactly what is named, without what it asks for: the pins are complete."""
        self.run(self.stack.uv, "pip", "install", "-q", "--no-deps", "-p", self.stack.python,
                 *arguments)  # fmt: skip

    def venv(self) -> str:
        """Create the virtual environment with uv in it, or keep a working one."""
        if self._venv_works():
            return "kept"
        uv = re.search(r"^uv==\S+", self.stack.pins.read_text(), flags=re.M)
        assert uv is not None, f"{self.stack.pins} pins no uv"
        shutil.rmtree(self.stack.venv, ignore_errors=True)
        try:
            self.run(sys.executable, "-m", "venv", self.stack.venv)
        except EnvError as error:
            raise EnvError(f"{error}\nOn Debian and Ubuntu: install python3-venv.") from None
        python = self.stack.python
        self._use_index()
        self.run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", uv[0])
        return f"created, {uv[0]}"

    def _venv_works(self) -> bool:
        """Tell whether the environment belongs here, runs, and has the asked-for Python."""
        try:
            script = "import sys; print(sys.prefix, *sys.version_info[:2], sep='\\n')"
            prefix, *version = self.run(self.stack.python, "-c", script).split("\n")[:3]
            self.run(self.stack.python, "-m", "pip", "--version")
            self.run(self.stack.uv, "--version")
            # Scripts name the folder that the environment was created in.
            created_here = str(self.stack.venv) in (self.stack.venv / "bin/pip").read_text()
        except (EnvError, OSError):
            return False
        return (
            created_here
            and Path(prefix) == self.stack.venv
            and version == [str(n) for n in sys.version_info[:2]]
        )

    def _use_index(self) -> None:
        """Give uv the mirror that pip is configured with, if any."""
        settings = self.run(self.stack.python, "-m", "pip", "config", "list")
        mirror = re.search(r"^(?::env:|global|install)\.index-url='(.+)'$", settings, flags=re.M)
        if mirror:
            self.environ.setdefault("UV_DEFAULT_INDEX", mirror[1])

    def packages(self) -> str:
        """Install the pins and repair what is there and not whole."""
        site = self.stack.site_packages
        self._use_index()
        for info in site.glob("*.dist-info"):
            if not ((info / "RECORD").exists() and (info / "METADATA").exists()):
                shutil.rmtree(info)
        broken = [b for b in broken_distributions(site) if b not in ("cropr_mm",)]
        installed = accelerator.installed_backend(site)
        asked = accelerator.torch_backend(dict(os.environ))
        backend = installed if asked is None else asked
        stale = ["torch", "torchvision"] if installed != backend else []
        repairs = [part for name in (*broken, *stale) for part in ("--reinstall-package", name)]
        if backend:
            self._packages_with(backend, repairs)
        else:
            self.install("-r", self.stack.pins, *repairs)
        count = len(list(site.glob("*.dist-info")))
        text = f"{count} installed" + (f", torch for {backend}" if backend else "")
        return text + (f", repaired: {', '.join(broken)}" if broken else "")

    def _packages_with(self, backend: str, repairs: list[str]) -> None:
        """Install the pins, but another build of torch and what that build needs."""
        pins, torch = accelerator.split_pins(self.stack.pins.read_text(), backend)
        others = self.stack.venv / "pins_without_torch.txt"
        others.write_text(pins)
        self.install("-r", others, *repairs)
        # With dependencies: the CUDA libraries of this build are not pinned.
        self.run(self.stack.uv, "pip", "install", "-q", "-p", self.stack.python, "-c", others,
                 "--torch-backend", backend, *torch, *repairs)  # fmt: skip

    def gpu(self) -> str:
        """Decide between CUDA and CPU ops, and say so where a GPU stays unused."""
        probe = accelerator.ask_torch(self.stack.python)
        driver = accelerator.find_driver()
        release = accelerator.toolkit_release(probe["toolkit"])
        self.target = accelerator.choose_target(probe, release, dict(os.environ), driver)
        if self.target.cuda and probe["usable"]:
            self.devices.append("cuda")
        if self.target.reason:
            self.tell("gpu", f"CPU ops only: {self.target.reason}")
        return accelerator.driver_summary(driver, probe)

    def mmcv(self) -> str:
        """Install the wheel of mmcv that fits this machine."""
        assert self.target is not None, "the stage gpu comes first"
        wheel = mmcv_wheel.wheel(
            self.stack.python, self.stack.mmcv, self.target, lambda text: self.tell("mmcv", text)
        )
        name = self.stack.mmcv.split("==")[0]
        self.install("--reinstall-package", name, wheel)
        return f"{self.stack.mmcv}, {self.target.ops}"

    def project(self) -> str:
        """Install this checkout in editable form."""
        self.install("--no-build-isolation", "--reinstall-package", "cropr_mm", "-e", ROOT)
        return "cropr_mm, editable"

    def imports(self) -> str:
        """Import the host libraries and run one compiled op."""
        site = self.stack.site_packages
        broken = broken_distributions(site)
        if broken:
            raise EnvError(f"files are missing after installation: {', '.join(broken)}")
        return self.run(self.stack.python, "-c", SMOKE_TEST, *self.devices).splitlines()[-1]


def stop(*_: object) -> NoReturn:
    """Turn a request to end into one exception, so that everything cleans up undisturbed.

    A second request is usual: the shell signals the whole group and make passes it on.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Return 0 if the environment is whole at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", choices=("onedl", "openmmlab"))
    parser.add_argument("--check", action="store_true", help="only say whether it is whole")
    arguments = parser.parse_args()
    stack = stack_named(arguments.stack)
    if arguments.check:
        return bool(fault(stack))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    def waiting() -> None:
        print(f"env {stack.name}: another call is at work: waiting", flush=True)

    try:
        with mmcv_wheel.locked(ROOT / f"{stack.venv.name}.lock", waiting):
            reason = fault(stack)
            if reason:
                Builder(stack).build(reason)
    except EnvError as error:
        print(f"env {stack.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"env {stack.name}: interrupted; the next call goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
