"""Jobs of the zoo's small models."""

from __future__ import annotations

from small_jobs import plan
from small_zoo import Small

from myelin.contract import DataSchema
from myelin.model import AdamW, Job


def small(name: str, model: Small) -> Job:
    """A job of a small model, with a few records more than a batch has slots."""
    schema = {
        "shape": list(model.shape),
        "lower": 0.0,
        "upper": float(model.vocabulary - 1) if model.vocabulary else 1.0,
        "normalize": "none" if model.vocabulary else "unit",
        "label": {"classes": [f"class {index}" for index in range(model.classes)]},
    }
    return Job(
        name=name,
        model=model.make,
        loss="cross_entropy",
        optimizer=AdamW(0.01, weight_decay=0.3),
        plan=plan(5, dataset_size=24, steps=5),
        schema=DataSchema.from_mapping(schema),
        lanes=2,
        oblivious_gather=True,
        oblivious_tokens=True,
    )
