"""What a template may cost: subclasses of python-liquid that end a rendering which grows too large or takes too long.

The library bounds nested loops, output and local variables. It does not bound loops that follow one another, a filter
that multiplies (`replace` with a long text, `reverse` of a range), one that compares all with all (`uniq`), what its
lexer is given (engine/templates/markup.py), or time; that is done here. Values are those of one
rendering and nothing else: no files, no other templates, no attributes of Python objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO, TypeVar

from liquid import Environment, RenderContext
from liquid.ast import BlockNode, Node
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.builtin.filters.array import uniq
from liquid.builtin.filters.misc import date
from liquid.builtin.tags.for_tag import ForNode, ForTag
from liquid.builtin.tags.tablerow_tag import TablerowNode, TablerowTag
from liquid.exceptions import LiquidSyntaxError, LoopIterationLimitError, ResourceLimitError
from liquid.filter import sequence_filter
from liquid.output import LimitedStringIO
from liquid.stream import TokenStream
from liquid.template import BoundTemplate
from liquid.token import TOKEN_EOF, Token
from liquid.undefined import UNDEFINED, Undefined

from engine.templates.markup import find_markup_problem

MAX_OUTPUT_BYTES = 512 * 1024
"""Twice the largest body: larger mails are clipped by every reader."""
MAX_VALUE_SIZE = 256 * 1024
"""Characters and items of one intermediate value."""
MAX_ITERATIONS = 10_000
"""Of all loops of one rendering together."""
MAX_COMPARED = 2_000
"""Items that a filter compares each with each other."""
MAX_CPU_SECONDS = 0.5
"""An ordinary newsletter takes one or two milliseconds, one with thousands of rows a hundred."""
_FILE_TAGS = ("include", "render")

_Loop = TypeVar("_Loop", ForNode, TablerowNode)


class Missing(Undefined):
    """A value that is not there. Written out it is empty, and noted."""

    __slots__ = ("_noted", "_path")

    def __init__(self, path: str, noted: dict[str, None], token: Any) -> None:
        super().__init__(path, token=token)
        self._path = path
        self._noted = noted

    def __str__(self) -> str:
        self._noted[self._path] = None
        return ""


def unaltered_output(limit: int) -> LimitedStringIO:
    """Takes up to `limit` bytes. The library's own would write each CR as a line feed."""
    return LimitedStringIO(limit=limit, newline="")


class BoundedContext(RenderContext):
    """One rendering. `missing` is what was written out and is not there."""

    __slots__ = ("_deadline", "_iterations", "missing")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.missing: dict[str, None] = {}
        self._deadline = time.thread_time() + MAX_CPU_SECONDS
        self._iterations = 0

    def check_time(self) -> None:
        """Raises `ResourceLimitError`."""
        if time.thread_time() > self._deadline:
            raise ResourceLimitError("takes too long", token=None)

    def get(self, path: list[object], *, token: Any, default: object = UNDEFINED) -> object:
        """Of what is missing, the whole path."""
        found = super().get(path, token=token, default=_NOT_THERE if default is UNDEFINED else default)
        return Missing(_path_text(path), self.missing, token) if found is _NOT_THERE else found

    def get_item(self, obj: Any, key: Any) -> Any:
        """Of an object only its own keys: a trait `size` or `first` that is missing is not the object's."""
        return obj[key] if isinstance(obj, Mapping) and isinstance(key, str) else super().get_item(obj, key)

    def get_buffer(self, buf: TextIO | None = None) -> LimitedStringIO:
        """What a block writes to."""
        written = buf.size if isinstance(buf, LimitedStringIO) else 0
        return unaltered_output(MAX_OUTPUT_BYTES - written)

    def filter(self, name: str, token: Any) -> Callable[..., object]:
        self.check_time()
        return super().filter(name, token)

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Count iterations of one loop after another, too."""
        self._iterations += length
        if self._iterations > MAX_ITERATIONS:
            raise LoopIterationLimitError("loops too often", token=None)

    def stopindex(self, key: str, index: int | None = None) -> int:
        """Called with a loop's end before its items are collected."""
        if index is not None and index > MAX_ITERATIONS:
            raise LoopIterationLimitError("loops too often", token=None)
        return super().stopindex(key, index)


class BoundedTemplate(BoundTemplate):
    """A template whose renderings are bounded."""

    context_class = BoundedContext


class _TimedBlock(BlockNode):
    """A loop's body: looks at the time in each turn."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        if isinstance(context, BoundedContext):
            context.check_time()
        return super().render_to_output(context, buffer)


class _TimedFor(ForTag):
    def parse(self, stream: TokenStream) -> Node:
        node = super().parse(stream)
        return _timed(node) if isinstance(node, ForNode) else node


class _TimedTablerow(TablerowTag):
    def parse(self, stream: TokenStream) -> TablerowNode:
        return _timed(super().parse(stream))


class BoundedEnvironment(Environment):
    """Liquid as it is, without tags that load other templates, and bounded."""

    block_nesting_limit = 20
    context_depth_limit = 25
    loop_iteration_limit = MAX_ITERATIONS
    local_namespace_limit = 2 * MAX_VALUE_SIZE
    output_stream_limit = MAX_OUTPUT_BYTES
    template_class = BoundedTemplate

    def tokenizer(self) -> Callable[[str], Iterator[Token]]:
        """The library's, for what it reads in a time proportional to its length."""
        return partial(_tokenize, super().tokenizer())

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        for name in _FILE_TAGS:
            del self.tags[name]
        self.add_tag(_TimedFor)
        self.add_tag(_TimedTablerow)
        self.add_filter("date", _date)
        self.add_filter("uniq", _uniq)
        for name, function in self.filters.items():
            self.filters[name] = _bounded(name, function)


def _tokenize(tokenize: Callable[[str], Iterator[Token]], text: str) -> Iterator[Token]:
    problem = find_markup_problem(text)
    if problem is not None:
        raise LiquidSyntaxError(problem.message, token=Token(TOKEN_EOF, "", start_index=problem.index, source=text))
    return tokenize(text)


def _timed(node: _Loop) -> _Loop:
    node.block = _TimedBlock(node.block.token, node.block.nodes)
    return node


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes and gives back no more than `MAX_VALUE_SIZE`."""

    def call(left: object, *arguments: Any, **options: Any) -> Any:
        expected = _size(left) + sum(map(_size, arguments))
        if name in _MULTIPLYING and arguments:
            expected += (_size(left) + 1) * _size(arguments[-1])
        _check_size(expected)
        result = function(left, *arguments, **options)
        _check_size(_size(result))
        return result

    for mark in ("with_context", "with_environment"):
        if getattr(function, mark, False):
            setattr(call, mark, True)
    return call


_MULTIPLYING = frozenset({"replace", "join"})
"""What they give may be as long as the product of what they take."""


def _size(value: object) -> int:
    """Characters, items and bytes in a value, counted no further than is needed to refuse it."""
    total, waiting = 0, [value]
    while waiting and total <= MAX_VALUE_SIZE:
        each = waiting.pop()
        if isinstance(each, str | range):
            total += len(each)
        elif isinstance(each, int):
            total += each.bit_length() // 8
        elif isinstance(each, list | tuple):
            total += len(each)
            waiting += each if total <= MAX_VALUE_SIZE else ()
        elif isinstance(each, Mapping) and not isinstance(each, Undefined):
            total += len(each)
            waiting += [*each.keys(), *each.values()]
    return total


def _check_size(size: int) -> None:
    if size > MAX_VALUE_SIZE:
        raise ResourceLimitError("makes too large a value", token=None)


def _date(value: Any, pattern: Any, *, context: RenderContext, environment: Environment) -> str:
    """Liquid's `date`, in UTC and with the `now` of this rendering."""
    moment = context.globals.get("now") if isinstance(value, str) and value in ("now", "today") else value
    if isinstance(moment, str) and moment.isdigit():
        moment = int(moment)
    if isinstance(moment, int) and not isinstance(moment, bool):
        moment = datetime.fromtimestamp(moment, UTC)
    formatted: str = date(moment, pattern, environment=environment)
    return formatted


@sequence_filter
def _uniq(sequence: Sequence[object], key: object = None) -> list[object]:
    """Liquid's `uniq`."""
    if len(sequence) > MAX_COMPARED:
        raise ResourceLimitError("compares too much", token=None)
    found: list[object] = uniq(sequence, key)
    return found


_date.with_context = True  # type: ignore[attr-defined]
_date.with_environment = True  # type: ignore[attr-defined]


def _path_text(path: list[object]) -> str:
    """As it is written in a template, but for quotes and brackets."""
    return ".".join(map(str, path))


def _make_range(_literal: RangeLiteral, start: object, stop: object) -> range:
    made: range = _unbounded_range(_literal, start, stop)
    if made.stop - made.start > MAX_ITERATIONS:
        raise LoopIterationLimitError("counts too far", token=None)
    return made


_NOT_THERE = object()
_unbounded_range = RangeLiteral._make_range
# The parser makes ranges itself and has no hook for them; unbounded, `(1..999999999999) contains "x"` takes hours.
RangeLiteral._make_range = _make_range  # type: ignore[method-assign, assignment]
