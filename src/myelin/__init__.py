"""Myelin: machine learning on data that its owners will not show to anyone."""

__version__ = "0.1.0"
