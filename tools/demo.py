"""Train, test and draw a pruned model on handwritten digits: the whole package in minutes.

An interrupted demo goes on where it stopped; a finished one starts anew.
"""

import argparse
import os
import sys
from pathlib import Path

from cropr_mm.demo import TASKS, run_demo
from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.console import short_errors


def main() -> None:
    """Parse arguments and run the demo; its paths are those of the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, default="det", help="default: %(default)s")
    parser.add_argument("--work-dir", help="default: work_dirs/demo, or work_dirs/demo_<task>")
    add_traceback_option(parser)
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    with short_errors(traceback=args.traceback):
        default = "work_dirs/demo" if args.task == "det" else f"work_dirs/demo_{args.task}"
        sys.exit(run_demo(TASKS[args.task], "configs/demo", args.work_dir or default))


if __name__ == "__main__":
    main()
