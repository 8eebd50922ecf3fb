"""Write the breast-cancer set that scikit-learn carries: one CSV file for each hospital, one for the test."""

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

folder = Path(sys.argv[1])
data = load_breast_cancer()
order = np.random.default_rng(7).permutation(len(data.target))
parts = {"test": order[:114]}
parts |= dict(zip(("north", "south", "west"), np.array_split(order[114:], 3), strict=True))
for name, rows in parts.items():
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*data.feature_names, "diagnosis"])
        for row in rows:
            writer.writerow([*map(float, data.data[row]), data.target_names[data.target[row]]])
