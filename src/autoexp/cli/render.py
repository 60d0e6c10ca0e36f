"""All printing of tables and status."""

from __future__ import annotations

from autoexp.session.status import Status


def show_status(report: Status) -> None:
    print(report.model_dump_json(indent=2))
