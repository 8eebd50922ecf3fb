"""Agreement."""

from myelin.contract.schema import Column, DataSchema, Label

__all__ = ["Column", "DataSchema", "Label"]
