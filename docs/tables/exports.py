"""Tables of exported models: what verification found, and how fast they run."""

from typing import Any

from tables.records import benchmark, interval, markdown, of_idle, record

NAMES = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "aoti": "AOTInductor",
    "torch": "torch.export",
    "eager": "PyTorch",
    "compiled": "PyTorch, compiled",
}

MAIN = ("/bbox_mAP", "mIoU", "/top1")
"""How the metric ends that stands for all of a model."""


def matrix() -> str:
    """Each model in each format: difference, kept sets, metric or detections."""
    rows = []
    for name, formats in record("exports_cpu")["models"].items():
        rows += [[name, NAMES[form], *verified(found)] for form, found in formats.items()]
    head = ["model", "runtime", "largest difference", "equal kept sets", "metric, PyTorch's"]
    return markdown([*head, "the file's", "detections of one side only"], rows, left=2)


def verified(found: dict[str, Any]) -> list[str]:
    """Cells of one verification."""
    if "refused" in found:
        return ["refused", "-", "-", "-", "-"]
    if found["faults"]:
        return ["failed", found["faults"][0], "-", "-", "-"]
    kept = f"{found['kept_equal']} of {found['kept_total']}"
    count, lonely = found["detections"], found["unmatched"]
    both = ["-", "-"]
    if found["metrics"]:
        metrics = found["metrics"]
        name = next(name for name in metrics["pytorch"] if name.endswith(MAIN))
        both = [f"{name.split('/')[-1]} {metrics['pytorch'][name]:.3f}"]
        both.append(f"{metrics['exported'][name]:.3f}")
        count, lonely = count + metrics["detections"], lonely + metrics["unmatched"]
    # Of detectors, boxes and masks are compared, not the outputs before suppression.
    apart = "-" if count else f"{found['difference']:.0e}"
    return [apart, kept, *both, f"{lonely} of {count}" if count else "-"]


def formats(name: str) -> str:
    """Rows of a stored run of ``tools/benchmark.py --formats``."""
    rows = []
    for row, function in benchmark(name).items():
        encoder, _, form = row.partition(", ")
        on_disk, same = function["bytes_on_disk"], function["speedup_in_form"]
        rows.append(
            [
                "dense" if encoder == "dense" else "pruned",
                NAMES[form or "eager"],
                f"{function['median_ms']:.1f}",
                interval(**same) if same and encoder != "dense" else "-",
                f"{function['difference_from_eager']:.0e}" if form else "-",
                f"{on_disk / 1e6:.1f}" if on_disk else "-",
            ]
        )
    head = ["encoder", "runtime", "ms", "speed over dense in it", "from PyTorch", "MB on disk"]
    return markdown(head, rows, left=2)


def types() -> str:
    """One model whose encoder is stored in several types: what is the same, and how fast it is."""
    rows = []
    for file in record("export_types_cpu")["files"]:
        about = file["about"]
        found, pruned = about["verification"], of_idle(about["speed"])["pruned"]
        rows.append(
            [
                NAMES[file["format"]],
                file["dtype"],
                about["ran"]["precision"].split(",")[0],
                f"{found['kept_equal']} of {found['kept_total']}",
                f"{100 * found['kept_shared'] / found['kept_total']:.1f} %",
                f"{found['metrics']['exported']['mIoU']:.2f}",
                f"{pruned['median_ms']:.1f}",
                interval(**pruned["speedup"]),
                f"{file['bytes_on_disk'] / 1e6:.1f}",
            ]
        )
    head = ["runtime", "stored", "runs in", "equal kept sets", "tokens the same", "mIoU", "ms"]
    return markdown([*head, "speed over dense in it", "MB"], rows, left=3)
