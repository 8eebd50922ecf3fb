"""diffprivlib's logistic regression on the same examples: pure ε-DP by a perturbed objective."""

from __future__ import annotations

import time
import warnings

from .training import Data, Outcome


def run(data: Data, epsilon: float, norm: float, seed: int) -> Outcome:
    """Train with one seed; examples longer than ``norm`` are clipped to it."""
    from diffprivlib.models import LogisticRegression

    start = time.process_time()
    model = LogisticRegression(epsilon=epsilon, data_norm=norm, max_iter=500, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it clips, and that few iterations may not converge
        model.fit(data.features.astype("float64"), data.labels)
    accuracy = float(model.score(data.test_features.astype("float64"), data.test_labels))
    return Outcome(accuracy, time.process_time() - start, epsilon)
