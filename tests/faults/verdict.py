"""Exit 1 unless every fault scenario passed or does not apply, and every crash point of the sweep was survived."""

from __future__ import annotations

import json
import sys
from pathlib import Path

NOT_APPLICABLE = {"K26"}
"""Scenarios that may be n/a; why is in docs/explanation/faults.md. Any other n/a is a scenario that was not run."""


def main(faults: Path, sweep: Path) -> int:
    (result,) = json.loads(faults.read_text()).values()
    scenarios = result["results"]
    bad = [s for s in scenarios if s["outcome"] in ("fail", "error")]
    bad += [s for s in scenarios if s["outcome"] == "na" and s["id"] not in NOT_APPLICABLE]
    points = json.loads(sweep.read_text())["points"]
    lost = [p for p in points if p["ok"] is not True]
    for scenario in bad:
        print(f"{scenario['id']} {scenario['outcome']}: {scenario['got']}")
    for point in lost:
        print(f"crash point {point['k']} ({point['op']}): {point['got']}")
    survived = sum(s["outcome"] == "pass" for s in scenarios)
    print(f"faults survived: {survived} of {len(scenarios)}; crash points: {len(points) - len(lost)} of {len(points)}")
    return 1 if bad or lost else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
