"""How far an import is, and what came of it, in words."""

from __future__ import annotations

import io
import time
from datetime import timedelta

import pytest
from rich.console import Console

from importer import progress
from importer.progress import BarDisplay, PlainDisplay, Tally, display, plain_line
from importer.sender import Answered, Batch, Rejection, backoff, make_batches


def test_the_summary_counts_and_names() -> None:
    tally = Tally(started=time.monotonic() - 2)
    tally.add(Answered(accepted=1900, duplicates=50, dropped=30, rejected=20, rejections=(Rejection(9, "no"),)))
    tally.add_unreadable(3, "it is not JSON")

    lines = tally.summary().splitlines()

    assert lines[:3] == ["line 3: it is not JSON", "line 9: no", "… and 19 more like these."]
    assert lines[3].startswith(
        "1,900 events stored, 50 were already there, 30 dropped (the person's consent), 20 rejected by the gateway,"
        " 1 not sent; 2.0 s, "
    )
    assert 990 < tally.rate() <= 1000
    assert not tally.is_complete


def test_a_plain_line_tells_rate_and_time_left() -> None:
    tally = Tally(accepted=2400, started=time.monotonic() - 2)

    line = plain_line(tally, 25, 100, elapsed=2)

    assert line.startswith("2,400 events, 25 %, 1,")
    assert line.endswith(" events/s, about 6 s left")
    assert plain_line(tally, 0, 0, elapsed=2) == "2,400 events"


def test_without_a_terminal_lines_come_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with display(100) as shown:
        assert isinstance(shown, PlainDisplay)
        shown.update(Tally(accepted=1), 10)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "PLAIN_INTERVAL_SECONDS", 0)
        shown.update(Tally(accepted=1), 10)

    written = capsys.readouterr()
    assert written.err.startswith("1 events, 10 %, ")
    assert written.out == ""


def test_on_a_terminal_a_bar_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100, color_system=None)
    )

    with display(100) as shown:
        assert isinstance(shown, BarDisplay)
        shown.update(Tally(accepted=1234, started=time.monotonic() - 1), 50)

    assert "50 %" in screen.getvalue()
    assert "1,234 events" in screen.getvalue()
    assert "left" in screen.getvalue()


def test_batches_keep_within_count_and_size() -> None:
    events = [(line, b"x" * (400_000 if line > 1500 else 10)) for line in range(1, 1505)]

    batches = list(make_batches(events, lambda: 7))

    assert [len(batch.events) for batch in batches] == [1000, 502, 2]
    assert [line for batch in batches for line in batch.lines] == list(range(1, 1505))
    assert batches[0].position == 7


def test_halves_are_the_whole() -> None:
    batch = Batch((b"a", b"b", b"c"), (1, 2, 3), 9)

    first, second = batch.halves()

    assert first.events + second.events == batch.events
    assert first.lines + second.lines == batch.lines


def test_waits_double_up_to_a_bound() -> None:
    waits = [backoff(attempt) for attempt in range(60)]

    assert 0.25 <= waits[0] <= 0.5
    assert 1 <= waits[2] <= 2
    assert all(7.5 <= wait <= 15 for wait in waits[5:])
    assert timedelta(seconds=max(waits)) <= timedelta(seconds=15)
