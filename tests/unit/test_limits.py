"""The one pass over a document, against tables and against an oracle that really expands the fragments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from graphql import DocumentNode, FieldNode, FragmentDefinitionNode, FragmentSpreadNode, OperationDefinitionNode, parse
from graphql.language import SelectionSetNode
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.execution.limits import LimitExceededError, Limits, check_document, check_literals

GENEROUS = Limits(
    operations=10**9,
    depth=10**9,
    aliases=10**9,
    repeats=10**9,
    fields=10**9,
    directives=10**9,
    directives_per_node=10**9,
)


def refusal(document: str, limits: Limits) -> tuple[str, str] | None:
    """Code and message of the refusal, or None."""
    try:
        check_document(parse(document), limits)
    except LimitExceededError as error:
        return error.code, error.message
    return None


def directives(count: int) -> str:
    return " ".join(f"@d{number}" for number in range(count))


@pytest.mark.parametrize(
    ("limits", "within", "beyond", "code", "message"),
    [
        (
            replace(GENEROUS, operations=2),
            "query A{a} query B{a}",
            "query A{a} query B{a} query C{a}",
            "COST_EXCEEDED",
            "A document may hold at most 2 operations.",
        ),
        (
            replace(GENEROUS, depth=3),
            "{a{b{c}}}",
            "{a{b{c{d}}}}",
            "DEPTH_EXCEEDED",
            "Fields may nest at most 3 levels deep.",
        ),
        # fragments add no level of their own, and bring theirs
        (
            replace(GENEROUS, depth=3),
            "{a{...{...F}}} fragment F on T{b{c}}",
            "{a{...F}} fragment F on T{b{...G}} fragment G on T{c{d}}",
            "DEPTH_EXCEEDED",
            "Fields may nest at most 3 levels deep.",
        ),
        # a fragment that nobody spreads is validated too
        (
            replace(GENEROUS, depth=2),
            "{a} fragment F on T{b{c}}",
            "{a} fragment F on T{b{c{d}}}",
            "DEPTH_EXCEEDED",
            "Fields may nest at most 2 levels deep.",
        ),
        (
            replace(GENEROUS, aliases=2),
            "{x:a y:b b:b}",
            "{x:a y:b{z:c}}",
            "COST_EXCEEDED",
            "An operation may use at most 2 aliases.",
        ),
        (
            replace(GENEROUS, aliases=2),
            "{...F ...G} fragment F on T{x:a} fragment G on T{y:b}",
            "{a{...F} b{...F} c{...F}} fragment F on T{x:a}",
            "COST_EXCEEDED",
            "An operation may use at most 2 aliases.",
        ),
        (
            replace(GENEROUS, repeats=2),
            "{a b a{a a}}",
            "{a x:y a ...F} fragment F on T{a}",
            "COST_EXCEEDED",
            "A field may be repeated at most 2 times in one place.",
        ),
        # fields that merge merge what is below them
        (
            replace(GENEROUS, repeats=2),
            "{a{b} a{b} c{b}}",
            "{a{b c} a{b ...F}} fragment F on T{...{b}}",
            "COST_EXCEEDED",
            "A field may be repeated at most 2 times in one place.",
        ),
        # and names count, not fields
        (
            replace(GENEROUS, repeats=2),
            "{a x:a y:a z:a}",
            "{a:b a:c a:d}",
            "COST_EXCEEDED",
            "A field may be repeated at most 2 times in one place.",
        ),
        # a fragment counts once where it is spread, however often
        (
            replace(GENEROUS, repeats=2),
            "{a ...F ...F ...F ...F} fragment F on T{a}",
            "{a ...F ...F ...F ...F} fragment F on T{a a}",
            "COST_EXCEEDED",
            "A field may be repeated at most 2 times in one place.",
        ),
        # all definitions together may select ten times what one may
        (
            replace(GENEROUS, fields=2),
            "{a}" + "".join(f"fragment F{i} on T{{a b}}" for i in range(9)),
            "{a}" + "".join(f"fragment F{i} on T{{a b}}" for i in range(10)),
            "COST_EXCEEDED",
            "All definitions together may select at most 20 fields.",
        ),
        (
            replace(GENEROUS, fields=4),
            "{a{...F} b{...F}} fragment F on T{c}",
            "{a{...F} b{...F}} fragment F on T{c d}",
            "COST_EXCEEDED",
            "An operation may select at most 4 fields, those of fragments included.",
        ),
        (
            replace(GENEROUS, directives_per_node=2),
            "query " + directives(2) + "{a " + directives(2) + " ..." + directives(2) + "{b}}",
            "{a{...F " + directives(3) + "}} fragment F on T{c}",
            "COST_EXCEEDED",
            "At most 2 directives may stand in one place.",
        ),
        (
            replace(GENEROUS, directives_per_node=2),
            "query($v: Int " + directives(2) + "){a}",
            "query($v: Int " + directives(3) + "){a}",
            "COST_EXCEEDED",
            "At most 2 directives may stand in one place.",
        ),
        (
            replace(GENEROUS, directives=3),
            "query @a {a @b ...F} fragment F on T @c {b}",
            "query @a {a @b ...F} fragment F on T @c {b{c @d}}",
            "COST_EXCEEDED",
            "A document may use at most 3 directives.",
        ),
    ],
)
def test_each_limit_is_met_and_not_passed(limits: Limits, within: str, beyond: str, code: str, message: str) -> None:
    assert refusal(within, limits) is None
    assert refusal(beyond, limits) == (code, message)


@pytest.mark.parametrize(
    "document",
    [
        "{...A} fragment A on T{...A}",
        "{a} fragment A on T{a{...B}} fragment B on T{...{b{...A}}}",
        "{...C} fragment A on T{...B} fragment B on T{...A} fragment C on T{...A}",
    ],
)
def test_fragments_that_spread_themselves_are_refused(document: str) -> None:
    assert refusal(document, GENEROUS) == (
        "GRAPHQL_VALIDATION_FAILED",
        "Fragments must not spread themselves, directly or through others.",
    )


def test_fragments_of_the_same_name_are_refused_before_one_hides_the_other() -> None:
    assert refusal("{...F} fragment F on T{a} fragment F on T{b}", GENEROUS) == (
        "GRAPHQL_VALIDATION_FAILED",
        "Each fragment of a document must have a name of its own.",
    )


def test_spreads_of_unknown_fragments_are_left_to_validation() -> None:
    assert refusal("{...Nowhere a}", Limits()) is None


@pytest.mark.parametrize("literal", [r'"\u0000"', r'"a\u{0}"', r'"\u{00000}"'])
def test_nul_in_a_literal_is_refused(literal: str) -> None:
    with pytest.raises(LimitExceededError, match="NUL"):
        check_literals(parse(f"{{a(b: [{{c: {literal}}}])}}"))


@pytest.mark.parametrize("literal", ["9" * 5000, "9223372036854775808", "-9223372036854775809", "1e999", "1.5E+400"])
def test_a_number_over_64_bits_in_a_literal_is_refused(literal: str) -> None:
    with pytest.raises(LimitExceededError, match="64 bits"):
        check_literals(parse(f"{{a(b: [{{c: {literal}}}])}}"))


@pytest.mark.parametrize("literal", ["9223372036854775807", "-9223372036854775808", "1e308", '"99999999999999999999"'])
def test_a_number_of_64_bits_in_a_literal_is_accepted(literal: str) -> None:
    check_literals(parse(f"{{a(b: {literal})}}"))


@pytest.mark.parametrize("literal", [r'"\\u0000"', r'"""\u0000"""', '"0"'])
def test_what_only_looks_like_nul_is_no_nul(literal: str) -> None:
    check_literals(parse(f"{{a(b: {literal})}}"))


def test_fragments_that_double_thirty_times_are_summed_in_no_time() -> None:
    levels = [f"fragment F{i} on T{{a{{...F{i + 1}}} b{{...F{i + 1}}}}}" for i in range(30)]
    document = parse("{...F0}" + "".join(levels) + "fragment F30 on T{c}")
    started = time.perf_counter()

    with pytest.raises(LimitExceededError, match="fields"):
        check_document(document, Limits())

    assert time.perf_counter() - started < 0.1


# The oracle: replace every spread by its fragment and count what is there.

NAMES = st.sampled_from("abc")


@st.composite
def documents(draw: st.DrawFn) -> str:
    """An operation and up to four fragments, each spreading only those after it."""
    count = draw(st.integers(0, 4))

    def selections(first: int, depth: int) -> str:
        return "{" + " ".join(selection(first, depth) for _ in range(draw(st.integers(1, 3)))) + "}"

    def selection(first: int, depth: int) -> str:
        kinds = ["field", "spread" if first < count else "field", "inline" if depth else "field"]
        match draw(st.sampled_from(kinds)):
            case "spread":
                return f"...F{draw(st.integers(first, count - 1))}"
            case "inline":
                return f"...{selections(first, depth - 1)}"
        alias = draw(st.sampled_from(["", "x:", "a:"]))
        below = selections(first, depth - 1) if depth and draw(st.booleans()) else ""
        return f"{alias}{draw(NAMES)}{below}"

    fragments = [f"fragment F{i} on T{selections(i + 1, 2)}" for i in range(count)]
    return " ".join([selections(0, 3), *draw(st.permutations(fragments))])


def expanded(document: DocumentNode) -> Iterator[list[tuple[int, FieldNode]]]:
    """For each operation the fields with their level."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}

    def walk(selection_set: SelectionSetNode, level: int) -> Iterator[tuple[int, FieldNode]]:
        for selection in selection_set.selections:
            if isinstance(selection, FieldNode):
                yield level, selection
                if selection.selection_set:
                    yield from walk(selection.selection_set, level + 1)
            elif isinstance(selection, FragmentSpreadNode):
                yield from walk(fragments[selection.name.value].selection_set, level)
            else:
                yield from walk(selection.selection_set, level)  # type: ignore[attr-defined]

    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode | FragmentDefinitionNode):
            yield list(walk(node.selection_set, 1))


@given(documents())
@settings(max_examples=300, deadline=None)
def test_sums_equal_those_of_the_expanded_document(text: str) -> None:
    document = parse(text)
    bodies = list(expanded(document))
    fields = max(len(body) for body in bodies)
    depth = max(level for body in bodies for level, _ in body)
    aliases = max(sum(bool(n.alias and n.alias.value != n.name.value) for _, n in body) for body in bodies)

    for name, value in (("fields", fields), ("depth", depth), ("aliases", aliases)):
        assert refusal(text, replace(GENEROUS, **{name: value})) is None
        assert refusal(text, replace(GENEROUS, **{name: value - 1})) is not None
