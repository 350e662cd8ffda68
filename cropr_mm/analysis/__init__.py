"""What a model costs: complexity by counting, latency by timing."""

from cropr_mm.analysis.complexity import EncoderCost, Macs, ModelCost, encoder_cost, model_cost
from cropr_mm.analysis.floor import Floor, measure_with_floors
from cropr_mm.analysis.latency import Latencies, Ratio, measure
from cropr_mm.analysis.products import record_products
from cropr_mm.analysis.report import complexity_report, format_complexity

__all__ = [
    "EncoderCost",
    "Floor",
    "Latencies",
    "Macs",
    "ModelCost",
    "Ratio",
    "complexity_report",
    "encoder_cost",
    "format_complexity",
    "measure",
    "measure_with_floors",
    "model_cost",
    "record_products",
]
