"""Liquid: what templates see, what is missing, and that none of them takes longer or grows larger than it may."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from db.records import EventRecord, ProfileRecord
from engine.templates.bounds import MAX_OUTPUT_BYTES
from engine.templates.liquid import (
    MAX_TEMPLATE_BYTES,
    CannotRender,
    TemplateValues,
    check_template,
    render,
    template_values,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROJECT = UUID(int=7)
ADA = ProfileRecord(
    PROJECT, UUID(int=1), "ada", False, msgspec.Raw(b'{"name": "Ada", "email": "ada@shop.example"}'), NOW, None
)
ORDER = EventRecord(
    PROJECT,
    3,
    "key",
    "analytics",
    "order.placed",
    NOW,
    NOW,
    "ada",
    None,
    msgspec.Raw(b'{"total": 12.5, "items": [{"name": "Hat"}, {"name": "<b>Coat</b>"}], "timestamp": "mine"}'),
    msgspec.Raw(b"{}"),
)
VALUES = template_values(
    now=NOW, user_id="ada", profile=ADA, event=ORDER, variables={"code": "SPRING", "user": "hidden"}, run={"id": "r1"}
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hi {{ user.name }} ({{ user.id }}, {{ user.email }})", "Hi Ada (ada, ada@shop.example)"),
        ("{{ trait.name | upcase }} {{ profile.traits.name }} {{ profile.userId }}", "ADA Ada ada"),
        ("{{ event.total }} {{ event.eventType }} {{ event.properties.total }}", "12.5 order.placed 12.5"),
        # Properties go before the envelope.
        ("{{ event.timestamp }} {{ event.receivedAt }}", "mine 2026-05-01T12:00:00Z"),
        ("{% for item in event.items %}{{ forloop.index }}.{{ item.name }} {% endfor %}", "1.Hat 2.<b>Coat</b> "),
        # vars are at the top level, and hide nothing.
        ("{{ code }} {{ user.id }} {{ run.id }}", "SPRING ada r1"),
        (
            "{{ now | date: '%d.%m.%Y %H:%M' }} {{ 'now' | date: '%Y' }} {{ 0 | date: '%H' }}",
            "01.05.2026 12:00 2026 00",
        ),
        ("{% if trait.vip %}vip{% else %}plain{% endif %}", "plain"),
        ("no markup at all", "no markup at all"),
        ("a{{ '%00' | url_decode }}{{ 'AA==' | base64_decode }}b", "ab"),
    ],
)
def test_what_a_template_sees(template: str, text: str) -> None:
    assert render(template, VALUES).text == text


def test_what_is_missing_is_empty_and_reported_where_it_was_written_out() -> None:
    rendered = render(
        "{{ trait.first }}{{ trait.last | upcase }}{{ nothing.at.all }}{{ trait.first }}{{ trait.size }}"
        "{{ trait.nick | default: 'friend' }}{% if trait.vip %}{% endif %}",
        VALUES,
    )
    assert rendered.text == "friend"
    assert rendered.missing == ("trait.first", "trait.last", "nothing.at.all", "trait.size")


def test_html_is_escaped_and_text_is_not() -> None:
    template = "<p>{{ event.items[1].name }}</p>"
    assert render(template, VALUES, html=True).text == "<p>&lt;b&gt;Coat&lt;/b&gt;</p>"
    assert render(template, VALUES).text == "<p><b>Coat</b></p>"
    assert render("{{ event.items[1].name | safe }}", VALUES, html=True).text == "<b>Coat</b>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ user.__class__ }}{{ user.name.__class__.__mro__ }}{{ code.__init__ }}",
        "{{ event.items.__len__ }}{{ now.tzinfo }}",
    ],
)
def test_nothing_of_python_can_be_reached(template: str) -> None:
    assert render(template, VALUES).text == ""


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("Hi {{ user.name", "in line 1"),
        ("\n\n{% if x %}", "endif"),
        ("a\nb {% raw %} c", "in line 2: a raw or doc block is never closed"),
        ("{% include 'secrets' %}", "include"),
        ("{% render 'secrets' %}", "render"),
        ("{{ x | no_such_filter }}", "no_such_filter"),
        ("{{ a" + "[a" * 3000 + "]" * 3000 + "}}", "Not a Liquid template"),
        ("x" * (MAX_TEMPLATE_BYTES + 1), "256 KiB"),
    ],
    ids=["open", "block", "raw", "include", "render", "filter", "deep", "long"],
)
def test_what_is_no_template_is_said_when_it_is_saved(template: str, part: str) -> None:
    sentence = check_template(template)
    assert sentence is not None
    assert part in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 300


def test_ordinary_templates_can_be_saved() -> None:
    template = "{% assign a = 1 %}{% for i in (1..3) %}{{ i | plus: a }}{% endfor %}{% comment %}x{% endcomment %}"
    assert check_template(template) is None


BOMBS = {
    "nested loops": "{% for i in (1..9000) %}{% for j in (1..9000) %}{% endfor %}{% endfor %}",
    "loops in a row": "{% for i in (1..5000) %}{% endfor %}" * 3,
    "a long loop, backwards": "{% for i in (1..999999999) reversed %}{% endfor %}",
    "a loop with an offset": "{% for i in (1..999999999) offset: 999999990 %}{% endfor %}",
    "a long body": "{% for i in (1..9000) %}" + "{% if 1 == 2 %}a{% endif %}" * 2000 + "{% endfor %}",
    "a table": "{% tablerow i in (1..9000) %}" + "{% if 1 == 2 %}a{% endif %}" * 2000 + "{% endtablerow %}",
    "a range that is searched": "{% if (1..999999999999) contains 'x' %}{% endif %}",
    "a range that is joined": "{{ (1..99999999) | reverse | join: ',' }}",
    "doubling": "{% assign x = 'ab' %}" + "{% assign x = x | append: x %}" * 60,
    "replacing": "{% assign x = 'xxxxxxxxxxxxxxxxxxxxxxxx' %}" + "{% assign x = x | replace: 'x', x %}" * 6,
    "joining": "{% assign l = code | split: '' %}" + "{% assign l = l | concat: l %}" * 30 + "{{ l | join: code }}",
    "a list written out": "{% assign l = big | split: '|' %}" + "{% assign l = l | concat: l %}" * 16 + "{{ l }}",
    "base64 of base64": "{{ big " + "| base64_encode " * 60 + "}}",
    "a large number": "{% assign x = 99999999 %}" + "{% assign x = x | times: x %}" * 60 + "{{ x }}",
    "comparing all with all": "{% assign l = codes | concat: codes | uniq %}",
    "much output": "{% for i in (1..9000) %}{{ big }}{% endfor %}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_template_that_grows_ends(bomb: str) -> None:
    values = TemplateValues({**VALUES.roots, "big": "y" * 30_000, "codes": [[number] for number in range(8000)]})
    assert check_template(bomb) is None
    began = time.thread_time()
    with pytest.raises(CannotRender) as raised:
        render(bomb, values)
    assert time.thread_time() - began < 2.0
    assert "yyy" not in str(raised.value)


def _filled(begin: str, repeated: str, end: str = "") -> str:
    """As long as a template may be."""
    return begin + repeated * ((MAX_TEMPLATE_BYTES - len(begin) - len(end)) // len(repeated)) + end


SLOW_TO_READ = {
    "braces": _filled("", "{"),
    "open outputs": _filled("", "{{"),
    "open raws": _filled("", "{% raw %}"),
    "open docs": _filled("", "{% doc %}"),
    "parentheses": _filled("{% if ", "(", "%}{% endif %}"),
    "few parentheses often": _filled("", "{{" + "(" * 50 + "}}"),
    "ranges": _filled("{{", "(1.", "}}"),
    "blanks": _filled("{{", " ", "}}"),
    "open blanks": _filled("{{", " "),
    "blanks in a tag": _filled("{% if a", " ", "%}{% endif %}"),
    "blank lines": _filled("{% liquid\n", "  \n", "%}"),
    "a long name": _filled("{%", "a"),
    "quotes in brackets": _filled("{{ a", "['", "}}"),
    "many outputs": _filled("", "{{a}}"),
    "many branches": _filled("{% if a %}", "{% elsif a %}", "{% endif %}"),
    "many lines": _filled("{% liquid\n", "assign a=1\n", "%}"),
    "many brackets": _filled("{{ a", "[a]", "}}"),
}


@pytest.mark.parametrize("text", SLOW_TO_READ.values(), ids=SLOW_TO_READ.keys())
def test_what_takes_long_to_read_is_refused_at_once(text: str) -> None:
    """A pattern that runs cannot be interrupted: without bounds some of these hold a process for an hour."""
    began = time.thread_time()
    sentence = check_template(text)
    assert time.thread_time() - began < 1.0
    assert sentence is not None
    assert sentence.startswith("Not a Liquid template in line 1: ")


@pytest.mark.parametrize(
    "text",
    [
        "{{ a" + "[a]" * 1000 + "}}",
        "{% if a" + " or a" * 100 + " %}{% endif %}",
        "{{ a | where: 'b', (1..2) }}",
        "{% raw %}{{ {% {{{{ " + " " * 5000 + "{% endraw %}{% comment %}{{ a }}{% endcomment %}",
        "{% doc %}{{ {% enddoc %}",
        "{%- raw -%}{{{%- endraw -%}",
        "{{- a -}}{%- if a -%}{%- endif -%}{{'}'}}",
        "{% liquid\n" + " " * 90 + "assign a = 1\n%}",
        ("<td>" + " " * 500 + "{{ a }}</td>") * 400,
        "} } %} }} { % { {",
        "{{ a }}" * 9000,
        _filled("", "{% raw %}", "{% endraw %}"),
    ],
)
def test_what_is_read_quickly_is_left_alone(text: str) -> None:
    began = time.thread_time()
    assert check_template(text) is None
    assert time.thread_time() - began < 2.0


def test_an_error_quotes_no_values() -> None:
    with pytest.raises(CannotRender) as raised:
        render("\n{{ trait.name | times: trait.email | divided_by: 0 }}", VALUES)
    assert str(raised.value) == "The template fails in line 2: FilterArgumentError."


@pytest.mark.parametrize("template", ["{{ 99999999999999999 | date: '%Y' }}", "{{ event.items | sort }}"])
def test_whatever_a_value_makes_the_library_raise_is_the_templates_fault(template: str) -> None:
    with pytest.raises(CannotRender):
        render(template, VALUES)


def test_a_newsletter_is_far_from_the_bounds() -> None:
    rows = "{% for item in (1..200) %}<tr><td>{{ item }}</td><td>{{ code | upcase }}</td></tr>{% endfor %}"
    rendered = render("<table>" + rows * 20 + "</table>" + "<p>text</p>" * 1000, VALUES, html=True)
    assert 80_000 < len(rendered.text) < MAX_OUTPUT_BYTES
