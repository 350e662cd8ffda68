"""Make the demo data: handwritten digits over clutter, for detection, segmentation and labels."""

import argparse

from cropr_mm.datasets import make_demo_data


def main() -> None:
    """Make the data (or find it whole) and print what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="data/demo", help="folder to make (default: data/demo)")
    out = parser.parse_args().out
    facts = make_demo_data(out)
    for split in ("train", "val"):
        print(
            f"{split:5} {facts[f'{split}_images']:5d} images, "
            f"{facts[f'{split}_digits']:5d} digits, "
            f"{facts[f'{split}_empty']:4d} images without any"
        )
    print(f"{out}: {facts['files']} files, {facts['bytes'] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
