"""Exit 1 unless every fault scenario passed or does not apply, and every crash point that was reached was survived.

verdict.py FOLDER            judge faults.json, again.json (a second try of what failed) and sweep.json in it
verdict.py --failed FILE     print the ids that did not pass, with commas between
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NOT_APPLICABLE = {"K26"}
"""Scenarios that may be n/a; why is in docs/explanation/faults.md. Any other n/a is a scenario that was not run."""
REACHED = 0.9
"""A run does a few file operations more or less than the one they were counted in: so many points must be reached."""


def bad(file: Path) -> dict[str, dict[str, Any]]:
    """The scenarios that neither passed nor may be n/a, by id."""
    (result,) = json.loads(file.read_text()).values()
    wrong = [s for s in result["results"] if s["outcome"] != "pass"]
    return {s["id"]: s for s in wrong if s["outcome"] != "na" or s["id"] not in NOT_APPLICABLE}


def main(folder: Path) -> int:
    failed = bad(folder / "faults.json")
    if failed and (folder / "again.json").exists():
        failed = bad(folder / "again.json")
    points = json.loads((folder / "sweep.json").read_text())["points"]
    lost = [p for p in points if p["ok"] is False]
    reached = [p for p in points if p["ok"] is not None]
    for scenario in failed.values():
        print(f"{scenario['id']} {scenario['outcome']}: {scenario['got']}")
    for point in lost:
        print(f"crash point {point['k']} ({point['op']}): {point['got']}")
    print(f"fault scenarios failed: {len(failed)}; crash points: {len(reached) - len(lost)} of {len(reached)}")
    return 1 if failed or lost or len(reached) < REACHED * len(points) else 0


if __name__ == "__main__":
    if sys.argv[1] == "--failed":
        print(",".join(sorted(bad(Path(sys.argv[2])))))
    else:
        sys.exit(main(Path(sys.argv[1])))
