"""What a scrape shows of what others count."""

from __future__ import annotations

import os
import re
import urllib.request
from pathlib import Path
from uuid import UUID

from engine.dispatch.dispatcher import DispatcherStats
from engine.dispatch.values import DeliveryStatus
from engine.live.hub import HubStats
from engine.log import LogStats
from launch.ports import free_port
from telemetry import Metrics, Readings, serve_worker_metrics

PROJECT = UUID(int=7)


def test_a_scrape_shows_what_hub_log_and_redis_say_now() -> None:
    hub = HubStats(streams=1, cohorts=2, catching_up=3, watched_projects=4, delivered=5, lag=6, heads={PROJECT: 7})
    log = LogStats(commits=8, rows=9, retries=10, waiting_bytes=11, busy_projects=12)
    dropped = iter((13, 14))
    metrics = Metrics(Readings(lambda: hub, lambda: log, lambda: True, lambda: next(dropped)))

    first, second = metrics.render().decode().splitlines(), metrics.render().decode().splitlines()

    for line in (
        f'sendora_process_info{{pid="{os.getpid()}"}} 1.0',
        "sendora_streams 1.0",
        "sendora_cohorts 2.0",
        "sendora_streams_catching_up 3.0",
        "sendora_watched_projects 4.0",
        "sendora_stream_items_total 5.0",
        "sendora_hub_lag_events 6.0",
        f'sendora_log_head{{project="{PROJECT}"}} 7.0',
        "sendora_log_commits_total 8.0",
        "sendora_log_events_total 9.0",
        "sendora_log_retries_total 10.0",
        "sendora_log_waiting_bytes 11.0",
        "sendora_redis_connected 1.0",
        "sendora_dropped_announcements_total 13.0",
    ):
        assert line in first
    assert "sendora_dropped_announcements_total 14.0" in second


def test_a_worker_serves_what_its_dispatcher_counts() -> None:
    settled = {DeliveryStatus.SENT: 3, DeliveryStatus.UNCERTAIN: 1}
    stats = DispatcherStats(sending=1, held=2, open_breakers=4, settled=settled, late=5, retries=6)
    port = free_port()
    end = serve_worker_metrics(lambda: stats, lambda: False, host="127.0.0.1", port=port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
    finally:
        end()

    handbook = Path(__file__).parents[2] / "docs" / "operations.md"
    _, _, of_workers = handbook.read_text().partition("\nOf a worker, ")
    named = set(re.findall(r"`(sendora_[a-z]+(?:_[a-z]+)+)", of_workers))
    assert len(named) >= 5
    assert named <= {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in (
        "sendora_attempts_under_way 1.0",
        "sendora_deliveries_held 2.0",
        "sendora_open_breakers 4.0",
        'sendora_deliveries_settled_total{status="SENT"} 3.0',
        'sendora_deliveries_settled_total{status="UNCERTAIN"} 1.0',
        "sendora_outcomes_late_total 5.0",
        "sendora_settlement_retries_total 6.0",
        "sendora_redis_connected 0.0",
    ):
        assert line in lines
