"""The names under which workflows follow the log."""

from __future__ import annotations

TRIGGERS_FOLLOWER = "workflows"
"""Of the events lane: makes the runs that events start."""
REPORTS_FOLLOWER = "workflow_runs"
"""Of the deliveries lane: wakes runs whose deliveries have come to something."""
