"""Confidence of the package cascadeflow in recorded answers; run by its own interpreter, not by this project's.

Reads JSON Lines of {"request", "answer"} on stdin and writes one number a line.
"""

from __future__ import annotations

import json
import sys

from cascadeflow.quality.confidence import ProductionConfidenceEstimator


def main() -> None:
    estimator = ProductionConfidenceEstimator()
    for line in sys.stdin:
        row = json.loads(line)
        print(estimator.estimate(row["answer"], query=row["request"]).final_confidence)


if __name__ == "__main__":
    main()
