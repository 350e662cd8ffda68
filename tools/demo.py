"""Train, test and draw a pruned detector on handwritten digits: the whole package in minutes.

An interrupted demo goes on where it stopped; a finished one starts anew.
"""

import argparse
import os
import sys
from pathlib import Path

from cropr_mm.demo import run_demo
from cropr_mm.runner import short_errors

CONFIG = "configs/demo/cropr_tiny_cascade_digits.py"


def main() -> None:
    """Parse arguments and run the demo; its paths are those of the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="default: %(default)s")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    with short_errors():
        sys.exit(run_demo(CONFIG, args.work_dir))


if __name__ == "__main__":
    main()
