"""Filling in the configuration of a step: what values become, what is missing, what is shown, what is too much."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.templates.liquid import CannotRender, TemplateValues, template_values
from engine.workflows import interpolation
from engine.workflows.interpolation import MASK, MAX_BYTES, MAX_SHOWN_CHARACTERS, MAX_TEXTS, Interpolator, shown

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def fill(**roots: Any) -> Interpolator:
    return Interpolator(TemplateValues({**template_values(now=NOW).roots, **roots}))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ event.amount }}", 42),
        ("{{event.paid}}", True),
        ("{{ event.items }}", [1, {"a": 2}]),
        ("{{ event.nothing }}", None),
        ("{{ event.name }}", "Ada"),
        ("{{ event.deep.a }}", 1),
        # Anything besides the placeholder makes it a text.
        (" {{ event.amount }}", " 42"),
        ("{{ event.amount | plus: 1 }}", "43"),
        ("{{ event.items[0] }}", "1"),
        ("{{ event.absent }}", ""),
        ("plain", "plain"),
        (7, 7),
        (["{{ event.amount }}", {"{{ event.name }}": "{{ event.name }}!"}], [42, {"{{ event.name }}": "Ada!"}]),
    ],
)
def test_a_placeholder_alone_becomes_the_value_itself(template: Any, expected: Any) -> None:
    event = {"amount": 42, "paid": True, "items": [1, {"a": 2}], "nothing": None, "name": "Ada", "deep": {"a": 1}}

    assert fill(event=event).value(template) == expected


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_what_somebody_is_called_is_never_read_as_a_template(name: str) -> None:
    for called in (name, "{{ event.secret }}", "{% raw %}" + name):
        values = fill(event={"name": called, "secret": "s"})

        assert values.text("Hi {{ event.name }}") == f"Hi {called}"
        assert values.value({"a": "{{ event.name }}"}) == {"a": called}


def test_what_is_missing_is_noted_once_however_often_it_is_written() -> None:
    values = fill(event={})

    assert values.text("{{ event.a }}{{ event.b }}{{ event.a }}") == ""
    assert values.value("{{ event.a }}") == ""
    assert values.missing == ("event.a", "event.b")


def test_html_is_escaped_where_it_is_html() -> None:
    assert fill(event={"a": "<b>"}).text("{{ event.a }}", html=True) == "&lt;b&gt;"


def test_the_texts_of_a_step_are_bounded_together() -> None:
    long = "y" * (MAX_BYTES // 4)

    for template in ("{{ event.long }} ", "{{ event.list }}"):
        values = fill(event={"long": long, "list": [long]})
        with pytest.raises(CannotRender, match="together"):
            values.value([template] * 5)
    with pytest.raises(CannotRender, match="1,000 texts"):
        fill().value(["{{ now }}"] * (MAX_TEXTS + 1))


def test_the_time_for_the_texts_of_a_step_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpolation, "MAX_CPU_SECONDS", 0.0)
    filling = fill()

    assert filling.text("{% for n in (1..100) %}{{ n }}{% endfor %}").startswith("123")
    with pytest.raises(CannotRender, match="too long"):
        filling.text("{{ now }}")


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "x-api-key",
        "apiKey",
        "api_key",
        "password",
        "clientSecret",
        "Cookie",
        "access_token",
        "X-Signature",
    ],
)
def test_what_goes_under_a_secret_name_is_masked(name: str) -> None:
    assert shown({"a": [{name: "s3cret"}]}) == {"a": [{name: MASK}]}
    assert shown({name: {"inner": "s3cret"}}) == {name: MASK}
    assert shown(f"see https://a.example/x?{name}=s3cret&b=1#c") == f"see https://a.example/x?{name}={MASK}&b=1#c"


@pytest.mark.parametrize("name", ["author", "keyboard", "Content-Type", "monkey", "X-Request-Id", "spinning"])
def test_other_names_are_shown(name: str) -> None:
    assert shown({name: "value"}) == {name: "value"}


def test_a_long_text_is_cut_with_what_is_left_out() -> None:
    assert shown("y" * (MAX_SHOWN_CHARACTERS + 1_234)) == "y" * MAX_SHOWN_CHARACTERS + "… (1,234 characters more)"
