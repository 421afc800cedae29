"""What a template's markup may look like before python-liquid's lexer sees it.

The lexer's patterns look for the end of whatever begins, again from each beginning, and go through blanks more than
once: 8 KiB of `{{{{…` takes it seconds, 256 KiB an hour, and a pattern that runs cannot be interrupted. So everything
that begins has to end, and each piece is short enough for what is left of that. Takes time proportional to the length
of the text. Pure.
"""

from __future__ import annotations

import re

import msgspec

MAX_PIECE_CHARACTERS = 4096
"""Of one `{{ … }}` or `{% … %}`. `{% liquid %}` blocks have some hundred."""
MAX_MARKUP_CHARACTERS = 64 * 1024
"""Of all of them in a text: read in well under a second. A newsletter has some thousand."""
MAX_PARENTHESES = 50
"""Of one piece: each is held for the beginning of a range, whose dots are looked for."""
MAX_BLANKS = 100
"""In a row within a piece."""

_VERBATIM = re.compile(r"\{%-?\s*(raw|doc)\s*-?%\}")
_VERBATIM_ENDS = {name: re.compile(rf"\{{%-?\s*end{name}\s*-?%\}}") for name in ("raw", "doc")}
_BEGINNING = re.compile(r"\{[{%]")
_ENDINGS = {"{{": "}}", "{%": "%}"}
_BLANKS = re.compile(rf"\s{{{MAX_BLANKS + 1}}}")


class MarkupProblem(msgspec.Struct, frozen=True):
    """What is wrong, as the end of a sentence, and the index in the text of where that begins."""

    message: str
    index: int


def find_markup_problem(text: str) -> MarkupProblem | None:
    """The first thing that is wrong with a template's markup; None for what the lexer may have."""
    total = position = 0
    while (begun := _BEGINNING.search(text, position)) is not None:
        start, end = begun.start(), text.find(_ENDINGS[begun.group()], begun.end()) + 2
        if end < begun.end():
            return MarkupProblem(f"{begun.group()} is never closed", start)
        problem = _problem_of(text[start:end])
        if problem is not None:
            return MarkupProblem(problem, start)
        total += end - start
        if total > MAX_MARKUP_CHARACTERS:
            return MarkupProblem(f"the markup up to here has more than {MAX_MARKUP_CHARACTERS // 1024} KiB", start)
        position = _end_of_verbatim(text, start, end)
        if position < 0:
            return MarkupProblem("a raw or doc block is never closed", start)
    return None


def _problem_of(piece: str) -> str | None:
    if len(piece) > MAX_PIECE_CHARACTERS:
        return f"a tag has more than {MAX_PIECE_CHARACTERS} characters"
    if piece.count("(") > MAX_PARENTHESES:
        return f"a tag has more than {MAX_PARENTHESES} parentheses"
    if _BLANKS.search(piece):
        return f"a tag has more than {MAX_BLANKS} blanks in a row"
    return None


def _end_of_verbatim(text: str, start: int, end: int) -> int:
    """Where the lexer goes on: behind a block in which nothing is markup, if this begins one; -1 if that has no end."""
    verbatim = _VERBATIM.match(text, start, end)
    if verbatim is None:
        return end
    ended = _VERBATIM_ENDS[verbatim[1]].search(text, end)
    return -1 if ended is None else ended.end()
