"""What a model costs: complexity by counting, latency by timing."""

from cropr_mm.profiling.complexity import complexity_report, format_complexity
from cropr_mm.profiling.encoder_cost import EncoderCost, encoder_cost
from cropr_mm.profiling.floor import Floor, measure_with_floors
from cropr_mm.profiling.latency import Latencies, Ratio, measure
from cropr_mm.profiling.macs import Macs
from cropr_mm.profiling.matmuls import record_matmuls
from cropr_mm.profiling.model_cost import ModelCost, model_cost

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
    "record_matmuls",
]
