"""Compare what several trained encoders do with the tokens of a test set.

Every model is tested on the data of its config; the first is compared with each of the others. All
have to see the same images at one size. With --metric it is also told which similarity to the first
model goes with how good the others are; they should be of one capacity and one keep rate then.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from cropr_mm.analysis.proxy import format_proxies, proxy_correlations
from cropr_mm.analysis.token_plot import draw_depth_maps, draw_features
from cropr_mm.analysis.token_record import TokenRecord
from cropr_mm.analysis.token_similarity import compare_records, format_similarity
from cropr_mm.options import add_hook
from cropr_mm.runner import evaluate, load_config, short_errors


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
        "--names", nargs="+", metavar="NAME", help="one for each model (default: config files)"
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="metric of the test, such as accuracy/top1, that similarities are correlated with; of "
        "three models or more",
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/analyze_tokens"))
    args = parser.parse_args()
    pairs = list(zip(args.models[::2], args.models[1::2], strict=False))
    names = args.names or [Path(config).stem for config, _ in pairs]
    with short_errors(ValueError):
        if len(args.models) % 2 or len(pairs) < 2:
            raise ValueError(
                "expected CONFIG CHECKPOINT of two models or more, got "
                f"{len(args.models)} files: {', '.join(args.models)}"
            )
        if len(names) != len(pairs) or len(set(names)) < len(names):
            raise ValueError(
                f"expected {len(pairs)} different names (--names), got {', '.join(names)}"
            )
        if args.metric and len(pairs) < 3:
            raise ValueError(f"expected three models or more with --metric, got {len(pairs)}")
        records: dict[str, TokenRecord] = {}
        scores: dict[str, float] = {}
        blocks = args.blocks
        for name, (config, checkpoint) in zip(names, pairs, strict=True):
            records[name], metrics = record_tokens(config, checkpoint, blocks, args.out)
            if args.metric:
                scores[name] = score(metrics, args.metric)
            blocks = blocks or list(records[name].features)
        args.out.mkdir(parents=True, exist_ok=True)
        first, *others = records
        results = {}
        for other in others:
            results[other] = compare_records(records[first], records[other])
            print(f"\n{format_similarity((first, other), results[other])}")
        found: dict[str, Any] = {"first": first, "others": results}
        if args.metric:
            found["proxies"] = {"metric": args.metric, **proxy_correlations(results, scores, first)}
            print(f"\n{format_proxies(found['proxies'])}")
        file, picture = args.out / "similarity.json", args.out / "depth_maps.png"
        file.write_text(json.dumps(found, indent=2) + "\n")
        print(f"\nnumbers  {file}")
        if draw_depth_maps(records, picture):
            print(f"maps     {picture}")
        if draw_features(records, args.out / "features.png"):
            print(f"t-SNE    {args.out / 'features.png'}")


def record_tokens(
    config: str, checkpoint: str, blocks: list[int] | None, folder: Path
) -> tuple[TokenRecord, dict[str, Any]]:
    """Test one model and return its record and metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokens.npz"
        cfg = load_config(config, str(folder / Path(config).stem))
        add_hook(cfg, "cropr_mm.TokenRecordHook", out_file=str(file), blocks=blocks)
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
