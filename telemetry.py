"""Logs and metrics of one process, configured once. Every other module only uses `logging` and what is handed to it.

A log line is a constant event name with fields (`extra={…}`): JSON when it is read by machines, plain on a terminal.
Metrics are Prometheus text; what the hub and the log count is read when somebody scrapes, never pushed.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from transport.request_ids import add_request

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds. Finest around the goals: p50 under 15 ms, p99 under 60 ms."""


class HubStats(Protocol):
    """What the hub counts; `engine.live.hub.HubStats` is it."""

    @property
    def streams(self) -> int: ...
    @property
    def cohorts(self) -> int: ...
    @property
    def catching_up(self) -> int: ...
    @property
    def watched_projects(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def lag(self) -> int: ...
    @property
    def heads(self) -> Mapping[UUID, int]: ...


class LogStats(Protocol):
    """What the event log counts; `engine.log.LogStats` is it."""

    @property
    def commits(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Readings:
    """Where the numbers are that somebody else counts. Each is called when the metrics are scraped."""

    hub: Callable[[], HubStats]
    log: Callable[[], LogStats]
    redis_connected: Callable[[], bool]
    dropped_announcements: Callable[[], int]


class DispatchStats(Protocol):
    """What a worker's dispatcher counts; `engine.dispatch.dispatcher.DispatcherStats` is it."""

    @property
    def sending(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def open_breakers(self) -> int: ...
    @property
    def settled(self) -> Mapping[Any, int]: ...
    @property
    def late(self) -> int: ...
    @property
    def retries(self) -> int: ...


def configure_logging(level: str, *, machine_readable: bool | None = None) -> None:
    """Send every logger's lines to standard error. `machine_readable` defaults to: standard error is no terminal."""
    as_json = not sys.stderr.isatty() if machine_readable is None else machine_readable
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        add_request,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [_TRACEBACK_AS_FIELDS, _leave_out_values, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_console_formatter(level))]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


_TRACEBACK_AS_FIELDS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""Never with local variables: they hold passwords and people's data."""

_VALUES = re.compile(r"(\nDETAIL: |(?<=query argument \$)\d+: ).*?(?=\nHINT: |\n\S*Traceback|\n\n|\Z)", re.DOTALL)
"""What PostgreSQL and its driver quote of rows and arguments: addresses, tokens, whole messages."""


def _without_values(text: str) -> str:
    return _VALUES.sub(lambda found: f"{found[1]} …", text)


def _leave_out_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of the exceptions that `_TRACEBACK_AS_FIELDS` has rendered."""
    for each in event.get("exception", ()):
        each["exc_value"] = _without_values(each["exc_value"])
    return event


def _console_formatter(level: str) -> structlog.typing.ExceptionRenderer:
    """A person wants to know what failed; where is for who asked for `debug`."""
    return _traceback if level.lower() == "debug" else _last_line


def _traceback(stream: TextIO, exception: structlog.typing.ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    stream.write(_without_values(text.getvalue()))


def _last_line(stream: TextIO, exception: structlog.typing.ExcInfo) -> None:
    stream.write("\n" + _without_values("".join(traceback.format_exception_only(exception[1]))).rstrip())


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self, readings: Readings) -> None:
        self._registry = CollectorRegistry()
        Gauge("sendora_process_info", "1, and which process this is.", ["pid"], registry=self._registry).labels(
            os.getpid()
        ).set(1)
        self._requests = Counter(
            "sendora_requests",
            "GraphQL operations answered, by transport, kind of operation and outcome.",
            ["transport", "operation", "outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "sendora_request_seconds",
            "Time from a complete request to its complete answer.",
            ["transport", "operation"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Readout(readings))

    def observe(self, transport: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one answered operation."""
        self._requests.labels(transport, operation, outcome).inc()
        self._seconds.labels(transport, operation).observe(seconds)

    def render(self) -> bytes:
        """The exposition text, `text/plain; version=0.0.4`."""
        return generate_latest(self._registry)


def serve_worker_metrics(
    stats: Callable[[], DispatchStats], redis_connected: Callable[[], bool], *, host: str, port: int
) -> Callable[[], None]:
    """Serve a worker's metrics over HTTP, in a thread of their own. Returns what ends that.

    Raises `OSError` when the address is taken or not ours.
    """
    registry = CollectorRegistry()
    registry.register(_WorkerReadout(stats, redis_connected))
    server, thread = start_http_server(port, host, registry)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


class _WorkerReadout(Collector):
    def __init__(self, stats: Callable[[], DispatchStats], redis_connected: Callable[[], bool]) -> None:
        self._stats = stats
        self._redis_connected = redis_connected

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield GaugeMetricFamily("sendora_attempts_under_way", "Attempts at providers and receivers now.", stats.sending)
        yield GaugeMetricFamily("sendora_deliveries_held", "Deliveries claimed and not settled yet.", stats.held)
        yield GaugeMetricFamily(
            "sendora_open_breakers", "Hosts and accounts that are given a rest.", stats.open_breakers
        )
        settled = CounterMetricFamily(
            "sendora_deliveries_settled", "Attempts by what became of them.", labels=["status"]
        )
        for status, count in stats.settled.items():
            settled.add_metric([str(status)], count)
        yield settled
        yield CounterMetricFamily("sendora_outcomes_late", "Outcomes that came after their lease.", stats.late)
        yield CounterMetricFamily("sendora_settlement_retries", "Settlements tried again.", stats.retries)
        yield GaugeMetricFamily("sendora_redis_connected", "1 while hints arrive.", float(self._redis_connected()))


class _Readout(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        yield from self._of_hub()
        yield from self._of_log()
        connected = float(self._readings.redis_connected())
        yield GaugeMetricFamily("sendora_redis_connected", "1 while announcements arrive.", connected)
        yield CounterMetricFamily(
            "sendora_dropped_announcements",
            "Announcements that Redis did not get; the relay makes up for them.",
            self._readings.dropped_announcements(),
        )

    def _of_hub(self) -> Iterator[Metric]:
        stats = self._readings.hub()
        yield GaugeMetricFamily("sendora_streams", "Open subscriptions on live sources.", stats.streams)
        yield GaugeMetricFamily("sendora_cohorts", "Groups of subscribers that share all work.", stats.cohorts)
        yield GaugeMetricFamily("sendora_streams_catching_up", "Streams reading the log.", stats.catching_up)
        yield GaugeMetricFamily("sendora_watched_projects", "Projects with an open stream.", stats.watched_projects)
        yield CounterMetricFamily("sendora_stream_items", "Items handed to subscribers (rate it).", stats.delivered)
        yield GaugeMetricFamily("sendora_hub_lag_events", "Items announced and not yet delivered.", stats.lag)
        heads = GaugeMetricFamily("sendora_log_head", "Newest seq of watched projects.", labels=["project"])
        for project_id, head in stats.heads.items():
            heads.add_metric([str(project_id)], head)
        yield heads

    def _of_log(self) -> Iterator[Metric]:
        stats = self._readings.log()
        yield CounterMetricFamily("sendora_log_commits", "Transactions that appended events.", stats.commits)
        yield CounterMetricFamily("sendora_log_events", "Events stored, duplicates not counted.", stats.rows)
        yield CounterMetricFamily("sendora_log_retries", "Tries of a statement of the log repeated.", stats.retries)
        yield GaugeMetricFamily(
            "sendora_log_waiting_bytes", "Events accepted and not yet stored, in bytes.", stats.waiting_bytes
        )
