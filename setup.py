"""Package metadata: `pip install -e .` adds this plug-in and leaves the host libraries alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "cropr_mm/__init__.py").read_text(), flags=re.MULTILINE
)
assert VERSION is not None, "cropr_mm/__init__.py holds no line __version__ = '...'"

setup(
    name="cropr_mm",
    version=VERSION[1],
    description="Token-pruned Vision Transformers for dense prediction, as an OpenMMLab plug-in",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cropr_mm", "cropr_mm.*"]),
    package_data={
        "cropr_mm": ["py.typed"],
        "cropr_mm.export": ["*.tsv"],
        "cropr_mm.visualization": ["*.html", "*.css", "*.js"],
    },
    # torch, torchvision, numpy, opencv, mmcv and mmengine come under two sets of distribution
    # names and versions: they are the user's choice (see README), so none of them is named here.
    install_requires=["timm>=1.0"],
    extras_require={
        # What the host libraries need and leave out; naming a host here would replace the user's.
        "det": ["pycocotools"],
        "seg": ["ftfy", "regex"],
        # A fresh environment of the maintained line (mmcv has to be compiled: see README).
        "onedl": [
            "onedl-mmengine>=0.10.12",
            "onedl-mmdetection>=3.5",
            "onedl-mmsegmentation>=1.4",
            "onedl-mmpretrain>=1.3",
        ],
        # Export to other runtimes; tested with torch 2.11.
        "export": ["onnx", "onnxscript>=0.7", "onnxruntime", "openvino"],
        # Low-rank adapters; mmpretrain fails beside transformers 5.
        "lora": ["peft", "transformers>=4.53,<5"],
        "analysis": ["scikit-learn", "scipy"],
        "demo": ["scikit-learn", "matplotlib", "pycocotools"],
        "docs": ["mkdocs<2", "mkdocs-material", "mkdocstrings[python]", "ruff"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "pre-commit",
            "scikit-learn",
            "matplotlib",
            "selenium",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
