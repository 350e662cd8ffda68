"""Strip a training checkpoint to what inference needs."""

import argparse

from cropr_mm.deploy import deploy_checkpoint
from cropr_mm.runner import load_config, short_errors


def main() -> None:
    """Parse arguments, write the checkpoint, say what it saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file the checkpoint was trained with")
    parser.add_argument("checkpoint", help="training checkpoint")
    parser.add_argument("out", help="file to write")
    args = parser.parse_args()
    with short_errors(ValueError):
        print(deploy_checkpoint(load_config(args.config), args.checkpoint, args.out))


if __name__ == "__main__":
    main()
