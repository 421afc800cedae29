"""What a plan tells people, and bundles in files."""

from __future__ import annotations

import copy
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.changes import Comparison, compare, quoted
from bundles.errors import BundleMistakeError
from bundles.files import bundle_text, read_bundle, write_bundle

VIPS = {"name": "VIPs", "where": [{"path": "profile.traits.vip", "op": "EQ", "value": True}]}
HELLO = {
    "name": "Hello",
    "isActive": True,
    "trigger": {"eventType": "order.placed", "filters": [], "reentry": "ALWAYS"},
    "steps": [
        {"label": "pause", "type": "WAIT", "config": {}, "delayMinutes": 60},
        {"label": "sms", "type": "SEND_SMS", "config": {"body": "Hi"}},
        {"label": "hook", "type": "WEBHOOK", "config": {"url": "https://example.com", "method": "POST"}},
    ],
}
STEPS: list[dict[str, Any]] = HELLO["steps"]  # type: ignore[assignment]
JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 1.0, "", "a", "a\nb", "x" * 200]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b c"]), inner, max_size=2),
    max_leaves=4,
)


def bundle(*workflows: dict[str, Any], audiences: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"$schema": "x", "audiences": list(audiences), "workflows": list(workflows)}


def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return compare(bundle(before), bundle(after)).text().splitlines()


def test_what_is_new_changed_and_left_is_told_by_name() -> None:
    before = bundle({**HELLO, "name": "a"}, {**HELLO, "name": "b"}, audiences=(VIPS,))
    after = bundle(
        {**HELLO, "name": "a", "isActive": False},
        {**HELLO, "name": "b"},
        {**HELLO, "name": "c", "isActive": False, "steps": STEPS[:1]},
        audiences=({**VIPS, "where": []}, {"name": "All", "where": []}),
    )
    found = compare(before, after)
    assert found.text().splitlines() == [
        '~ audience "VIPs"',
        '    where: [{"path": "profile.traits.vip", "op": "EQ", "value": true}] → []',
        '+ audience "All"',
        '~ workflow "a"',
        "    isActive: true → false",
        '= workflow "b"',
        '+ workflow "c"',
        "    off",
        '    + step "pause" (WAIT)',
    ]
    assert ([found.count(mark) for mark in "+~="], found.is_empty) == ([2, 2, 1], False)


def test_changes_of_steps_are_told_by_label_and_key() -> None:
    pause, sms, hook = STEPS
    changed = {
        **HELLO,
        "description": "new",
        "trigger": {
            "eventType": "order.placed",
            "filters": [{"path": "a", "op": "EQ", "value": 1}],
            "reentry": "ALWAYS",
        },
        "steps": [
            {**sms, "config": {"body": "Hello", "to": "+1"}, "next": "end"},
            {"label": "push", "type": "SEND_PUSH", "config": {"title": "t", "body": "b"}},
            {**pause, "delayMinutes": 60.5},
        ],
    }
    assert told(HELLO, changed)[1:] == [
        '    trigger.filters: [] → [{"path": "a", "op": "EQ", "value": 1}]',
        '    description: nothing → "new"',
        '    - step "hook" (WEBHOOK)',
        '    ~ step "sms"',
        '        config.body: "Hi" → "Hello"',
        '        config.to: nothing → "+1"',
        '        next: nothing → "end"',
        '    + step "push" (SEND_PUSH)',
        '    ~ step "pause"',
        "        delayMinutes: 60 → 60.5",
        '    steps in another order: "sms", "push", "pause"',
    ]
    between = {**HELLO, "steps": [pause, {**hook, "label": "new"}, sms, hook]}
    assert told(HELLO, between)[1:] == [
        '    + step "new" (WEBHOOK)',
        '    steps from now on: "pause", "new", "sms", "hook"',
    ]


def test_long_texts_are_told_line_by_line() -> None:
    def mail(html: str) -> dict[str, Any]:
        step = {"label": "mail", "type": "SEND_EMAIL", "config": {"to": "a@b.co", "subject": "Hi", "bodyHtml": html}}
        return {**HELLO, "steps": [step]}

    assert told(mail("<p>\nHi\n</p>"), mail("<p>\nHello\n</p>\n" + "x" * 200))[2:] == [
        "        config.bodyHtml:",
        "            - Hi",
        "            + Hello",
        f"            + {'x' * 160}…",
    ]


def test_values_of_other_types_differ() -> None:
    def traits(value: Any) -> dict[str, Any]:
        return {**HELLO, "steps": [{"label": "s", "type": "UPDATE_PROFILE", "config": {"traits": {"a b": value}}}]}

    assert told(traits(1), traits(True))[2:] == ['        config.traits."a b": 1 → true']
    assert told(traits("1"), traits(1))[2:] == ['        config.traits."a b": "1" → 1']
    assert told(traits("x" * 100), traits(None))[2:] == [f'        config.traits."a b": "{"x" * 59}… → null']
    assert told(traits([1, 2]), traits([1, 3]))[2:] == ['        config.traits."a b"[1]: 2 → 3']


def test_no_name_or_text_can_do_anything_to_a_terminal() -> None:
    assert quoted('a\x1b[31m\x9b\u202e\n"é🎈') == '"a\\u001b[31m\\u009b\\u202e\\n\\"é🎈"'
    evil = {**HELLO, "name": "\x1b[2J", "description": "\x9b\u202ea\n\x1bb"}
    text = compare(bundle(), bundle(evil)).text() + "".join(told(HELLO, {**HELLO, "description": "\x9b\u202ea\n\x1bb"}))
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)


@settings(max_examples=60, deadline=None)
@given(JSON, JSON, st.permutations([0, 1, 2]), st.booleans())
def test_two_bundles_differ_exactly_when_a_change_is_told(one: Any, other: Any, order: list[int], active: bool) -> None:
    before = {**HELLO, "steps": [{**STEPS[0], "config": {"reason": one}}, *STEPS[1:]]}
    after = copy.deepcopy(
        {**HELLO, "isActive": active, "steps": [{**STEPS[0], "config": {"reason": other}}, *STEPS[1:]]}
    )
    after["steps"] = [after["steps"][index] for index in order]
    is_same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    found = compare(bundle(before), bundle(after))
    assert found.is_empty == is_same
    assert compare(bundle(before), bundle(copy.deepcopy(before))).is_empty
    assert isinstance(found, Comparison)


class TestFiles:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "workflows.json"
        write_bundle(str(path), bundle(HELLO))
        assert read_bundle(str(path)) == bundle(HELLO)
        assert path.read_text() == bundle_text(bundle(HELLO))
        assert path.read_text().startswith('{\n  "$schema": "x",\n  "audiences": [],\n')
        assert [each.name for each in tmp_path.iterdir()] == ["workflows.json"]

    def test_a_bundle_that_is_there_keeps_its_schema(self, tmp_path: Path) -> None:
        path = tmp_path / "workflows.json"
        path.write_text('{"$schema": "https://prod.example/s.json"}')
        write_bundle(str(path), bundle(HELLO))
        assert read_bundle(str(path)) == {**bundle(HELLO), "$schema": "https://prod.example/s.json"}
        for other in ("[]", "no JSON", '{"$schema": 7}'):
            path.write_text(other)
            write_bundle(str(path), bundle())
            assert read_bundle(str(path)) == bundle()

    def test_standard_input_and_output(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_bundle("-", bundle(HELLO))
        written = capsys.readouterr().out
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written.encode())))
        assert read_bundle("-") == bundle(HELLO)

    @pytest.mark.parametrize(
        ("written", "sentence"),
        [
            (b"{", "is no JSON: Expecting property name enclosed in double quotes in line 1, column 2."),
            (b'{"a": NaN}', "is no JSON: NaN is not a number that JSON knows."),
            (b'{"a": 1, "b": 2, "a": 3}', 'is no JSON: "a" is there twice in one object.'),
            (b"[" * 100_000, "is no JSON: maximum recursion depth exceeded"),
            (b"\xff", "is not in UTF-8."),
        ],
    )
    def test_what_is_no_bundle_is_said_in_a_sentence(self, tmp_path: Path, written: bytes, sentence: str) -> None:
        path = tmp_path / "workflows.json"
        path.write_bytes(written)
        with pytest.raises(BundleMistakeError) as caught:
            read_bundle(str(path))
        assert str(caught.value).startswith(f"{path} {sentence}")

    def test_a_byte_order_mark_is_no_part_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "workflows.json"
        path.write_bytes(b"\xef\xbb\xbf{}")
        assert read_bundle(str(path)) == {}

    def test_a_file_that_is_not_there_or_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(BundleMistakeError, match="cannot be read: No such file or directory"):
            read_bundle(str(tmp_path / "none.json"))
        with pytest.raises(BundleMistakeError, match="cannot be written: No such file or directory"):
            write_bundle(str(tmp_path / "none" / "x.json"), bundle())
