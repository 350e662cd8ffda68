"""Tables of the documents, made from configs and stored measurements.

A document holds a table between two comments; the first one names a generator of :data:`TABLES` and
its arguments, in quotes where they have spaces::

    <!-- table: NAME ARGUMENT ... -->
    <!-- end -->

``make docs`` (or ``python -m tables`` with ``docs`` and ``benchmarks`` in ``PYTHONPATH``) writes
what the generator returns between them.
"""

from collections.abc import Callable

from tables import comparisons, configs, exports, methods, speed, training, upgrade

TABLES: dict[str, Callable[..., str]] = {
    "adapters": comparisons.adapters,
    "alternatives": speed.alternatives,
    "by_class": comparisons.by_class,
    "choices": comparisons.choices,
    "comparison": comparisons.comparison,
    "configs": configs.configs,
    "encoder_only_camvid": training.encoder_only_camvid,
    "encoder_only_costs": configs.encoder_only_costs,
    "encoders": speed.encoders,
    "export_formats": exports.formats,
    "export_matrix": exports.matrix,
    "export_types": exports.types,
    "fusions": methods.fusions,
    "headline": speed.headline,
    "hybrid_costs": configs.hybrid_costs,
    "hybrids": training.hybrids,
    "image_sizes": speed.image_sizes,
    "leads": comparisons.leads,
    "losses": comparisons.losses,
    "memory_of_detector": training.memory_of_detector,
    "memory_of_recipes": training.memory_of_recipes,
    "memory_of_sizes": training.memory_of_sizes,
    "memory_of_steps": training.memory_of_steps,
    "methods": methods.methods,
    "moved_modules": upgrade.moved_modules,
    "operators": speed.operators,
    "orders": comparisons.orders,
    "padding": comparisons.padding,
    "precision": speed.precision,
    "pretrained": comparisons.pretrained,
    "prices": comparisons.prices,
    "published_costs": configs.published_costs,
    "rates": speed.rates,
    "scale": speed.scale,
    "schedules": comparisons.schedules,
    "seen": comparisons.seen,
    "sequence_length": speed.sequence_length,
    "similarity": comparisons.similarity,
    "sizes": comparisons.sizes,
    "summary": speed.summary,
    "training_steps": training.steps,
    "variants": comparisons.variants,
    "whole_models": speed.whole_models,
}
"""Generators by the name that documents give."""
