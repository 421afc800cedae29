"""Settings: what the environment says, and what follows from it."""

from __future__ import annotations

import pytest

from settings import Environment, Introspection, SettingsError, read_settings, schema_for_all_of


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in ("SENDORA_ENVIRONMENT", "SENDORA_INTROSPECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "introspection", "for_all"),
    [
        # not said: production, where it depends on who asks
        ("", "", None),
        ("production", "", None),
        ("production", "auto", None),
        ("development", "", True),
        ("development", "auto", True),
        # said, whatever the environment
        ("production", "on", True),
        ("development", "off", False),
        # as it was said before there were environments
        ("production", "true", True),
        ("production", "1", True),
        ("development", "false", False),
        ("development", "0", False),
    ],
)
def test_who_may_ask_for_the_schema_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: str, introspection: str, for_all: bool | None
) -> None:
    given(monkeypatch, SENDORA_ENVIRONMENT=environment, SENDORA_INTROSPECTION=introspection)

    assert schema_for_all_of(read_settings()) is for_all


@pytest.mark.parametrize("name", ["SENDORA_ENVIRONMENT", "SENDORA_INTROSPECTION"])
def test_a_word_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given(monkeypatch, **{name: "staging"})

    with pytest.raises(SettingsError, match=f"{name} is malformed: Input should be"):
        read_settings()


def test_what_is_not_said_is_left_to_whoever_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    settings = read_settings()

    assert (settings.environment, settings.introspection) == (None, Introspection.AUTO)
    assert Environment("development") is Environment.DEVELOPMENT
