"""What the researcher does with the opened model: plain NumPy, and the schema's public ranges."""

import csv
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from myelin.contract import DataSchema

schema = DataSchema.load(Path(__file__).with_name("schema.toml"))
with open(sys.argv[2], newline="") as file:
    rows = list(csv.DictReader(file))
raw = np.array([[float(row[column.name]) for column in schema.columns or ()] for row in rows])
labels = np.array([schema.label.classes.index(row[schema.label.column]) for row in rows])
p = load_file(sys.argv[1])
hidden = np.tanh((raw * schema.scale + schema.offset) @ p["hidden.weight"].T + p["hidden.bias"])
logits = hidden @ p["output.weight"].T + p["output.bias"]
print(f"test accuracy {np.mean(np.argmax(logits, axis=1) == labels):.1%} on {len(labels)} held-out biopsies")
