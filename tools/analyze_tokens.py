"""Record what trained encoders do with the tokens of a test set, and compare them.

Every model is tested on the data of its config, and what it keeps or merges is counted and drawn.
The first one is compared with each of the others; all have to see the same images at one size. With
--metric it is also told which similarity to the first model goes with how good the others are; they
should be of one capacity and one keep rate then.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.config import load_config
from cropr_mm.engine.console import short_errors
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.options import add_hook, names_of
from cropr_mm.inspection.similarity import compare_records, format_similarity
from cropr_mm.inspection.similarity_vs_accuracy import format_proxies, proxy_correlations
from cropr_mm.inspection.summary import format_summary, summarize_record
from cropr_mm.inspection.token_plots import draw_depth_maps, draw_features, draw_tokens
from cropr_mm.inspection.token_record import TokenRecord


def main() -> None:
    """Parse arguments, test every model, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", nargs="+", metavar="CONFIG CHECKPOINT", help="two files for each model, in turn"
    )
    parser.add_argument(
        "--blocks",
        nargs="+",
        type=int,
        metavar="I",
        help="0-based blocks whose features are compared (default: those of the first model that "
        "reduce, and its last)",
    )
    parser.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="one for each model (default: config files, or folders where files are called alike)",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="metric of the test, such as accuracy/top1, that similarities are correlated with; of "
        "three models or more",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=2,
        metavar="N",
        help="images whose tokens are drawn, spread over the test set (default: 2)",
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/analyze_tokens"))
    add_traceback_option(parser)
    args = parser.parse_args()
    pairs = list(zip(args.models[::2], args.models[1::2], strict=False))
    names = args.names or names_of([config for config, _ in pairs])
    with short_errors(ValueError, traceback=args.traceback):
        check(args, names)
        records: dict[str, TokenRecord] = {}
        scores: dict[str, float] = {}
        blocks = args.blocks
        for name, (config, checkpoint) in zip(names, pairs, strict=True):
            folder = args.out / folder_of(name)
            records[name], metrics = record_tokens(
                config, checkpoint, folder, blocks=blocks, num_pictures=args.images
            )
            if args.metric:
                scores[name] = score(metrics, args.metric)
            blocks = blocks or list(records[name].features)
        summaries = {name: summarize_record(record) for name, record in records.items()}
        for name, summary in summaries.items():
            print(f"\n{format_summary(name, summary)}")
        first, *others = records
        results = {other: compare_records(records[first], records[other]) for other in others}
        for other, result in results.items():
            print(f"\n{format_similarity((first, other), result)}")
        if not others:
            print("\none model: overlap, agreement and similarity of features need another one")
        found: dict[str, Any] = {"first": first, "models": summaries, "others": results}
        if args.metric:
            found["proxies"] = {"metric": args.metric, **proxy_correlations(results, scores, first)}
            print(f"\n{format_proxies(found['proxies'])}")
        file = args.out / "similarity.json"
        file.write_text(json.dumps(found, indent=2) + "\n")
        print(f"\nnumbers  {file}")
        draw(records, args.out)


def folder_of(name: str) -> str:
    """Name of a model's folder in --out."""
    return name.replace("/", "_")


def check(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ValueError for arguments that do not fit each other."""
    count = len(args.models) // 2
    if len(args.models) % 2:
        raise ValueError(
            "expected CONFIG CHECKPOINT of each model, got "
            f"{len(args.models)} files: {', '.join(args.models)}"
        )
    if len(names) != count or len(set(names)) < count:
        raise ValueError(f"expected {count} different names (--names), got {', '.join(names)}")
    for name in names:
        if name in ("", ".", "..") or "\\" in name or "\0" in name:
            raise ValueError(f"expected names that can be folders in --out, got {name!r}")
    if len({folder_of(name) for name in names}) < count:
        raise ValueError(f"expected names of different folders (--names), got {', '.join(names)}")
    if args.metric and count < 3:
        raise ValueError(f"expected three models or more with --metric, got {count}")
    for file in args.models:
        if not Path(file).is_file():
            raise ValueError(f"expected a config or checkpoint file, found none at {file}")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out expects a folder, got the file {args.out}")
    if args.images < 0:
        raise ValueError(f"expected --images of 0 or more, got {args.images}")


def draw(records: Mapping[str, TokenRecord], folder: Path) -> None:
    """Draw every picture that there is something to draw for, and say what it leaves out."""
    for title, name, picture in (
        ("tokens", "tokens.png", draw_tokens),
        ("maps", "depth_maps.png", draw_depth_maps),
        ("t-SNE", "features.png", draw_features),
    ):
        file = folder / name
        drawn = picture(records, file)
        left = ", ".join(other for other in records if other not in drawn)
        without = f"  (nothing to draw of {left})" if left else ""
        print(f"{title.ljust(7)}  {file if drawn else 'none'}{without}")


def record_tokens(
    config: str, checkpoint: str, folder: Path, **options: Any
) -> tuple[TokenRecord, dict[str, Any]]:
    """Test one model and return its record and metrics.

    Args:
        config: Config file.
        checkpoint: Its checkpoint.
        folder: Working folder of the test.
        **options: Of the hook that records.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokens.npz"
        cfg = load_config(config, str(folder))
        add_hook(cfg, "cropr_mm.TokenRecordHook", out_file=str(file), **options)
        metrics = evaluate(cfg, checkpoint)
        return TokenRecord.load(file), metrics


def score(metrics: dict[str, Any], name: str) -> float:
    """One metric of a test.

    Raises:
        ValueError: If there is no such metric; the message has those that there are.
    """
    if name not in metrics:
        raise ValueError(f"expected --metric to be one of {', '.join(metrics)}, got {name}")
    return float(metrics[name])


if __name__ == "__main__":
    main()
