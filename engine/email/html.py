"""What an HTML mail says, in one pass over it: its text, its links with what they are written on, and its forms.

Nothing is rendered or fetched. Malformed HTML is read as far as browsers read it; the time it takes is proportional to
its length, whatever it is made of. Pure.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec

_BLOCKS = frozenset(
    re.findall(
        r"\S+",
        "address article aside blockquote br dd div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr li"
        " main nav ol p pre section table tr ul",
    )
)
MAX_SILENT = 100
"""Of elements within each other that show nothing: each end is looked for among them."""
_SILENT = frozenset({"head", "script", "style", "template", "title"})
_VOID = frozenset(re.findall(r"\S+", "area base br col embed hr img input link meta source track wbr"))
_URL_ATTRIBUTES = {
    **{"a": "href", "area": "href", "form": "action", "base": "href", "iframe": "src", "object": "data"},
    **{"button": "formaction", "input": "formaction", "embed": "src"},
}
_BLANKS = re.compile(r"[ \t\r\f\xa0]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\u00ad\ufeff\u034f]")


class Link(msgspec.Struct, frozen=True):
    """Something to follow: `text` is what it is written on, empty for forms and images."""

    url: str
    text: str = ""


class HtmlContent(msgspec.Struct, frozen=True):
    """`plain` has a line for each block; `text` has the URL of each link behind what it is written on, too."""

    text: str
    plain: str
    links: tuple[Link, ...]
    asks_for_password: bool


def read_html(html: str) -> HtmlContent:
    """Never raises."""
    reader = _Reader()
    reader.feed(_without_open_ends(html))
    reader.close()
    return reader.content()


def _without_open_ends(html: str) -> str:
    """Cut off what begins a tag or a comment and never ends it: browsers drop it, and Python's parser looks for the
    end again and again, once from each of them."""
    html = html[: html.rfind(">") + 1] + html[html.rfind(">") + 1 :].partition("<")[0]
    opened = html.find("<!--", html.rfind("-->") + 1)
    return html if opened < 0 else html[:opened]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._text: list[str] = []
        self._plain: list[str] = []
        self._links: list[Link] = []
        self._silent: list[str] = []
        self._open: tuple[str, int] | None = None
        self._asks_for_password = False

    def content(self) -> HtmlContent:
        self._end_link()
        return HtmlContent(
            _tidy("".join(self._text)),
            _tidy("".join(self._plain)),
            tuple(self._links),
            self._asks_for_password,
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "input" and attributes.get("type", "").strip().lower() == "password":
            self._asks_for_password = True
        if tag in _BLOCKS:
            self._write("\n")
        if tag in _SILENT and len(self._silent) < MAX_SILENT:
            self._silent.append(tag)
        self._note_url(tag, attributes)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._end_link()
        if tag in _BLOCKS:
            self._write("\n")
        if self._silent and tag in self._silent:
            del self._silent[self._silent.index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._write(_BLANKS.sub(" ", data.replace("\n", " ")))

    def parse_marked_section(self, i: int, report: bool = True) -> int:  # noqa: ARG002
        """In HTML they are comments, up to the next `>`. Python's parser would look for their own end, from each."""
        return int(self.parse_bogus_comment(i))

    def _note_url(self, tag: str, attributes: dict[str, Any]) -> None:
        url = attributes.get(_URL_ATTRIBUTES.get(tag, ""))
        if tag == "a":
            self._end_link()
        if url is None:
            return
        if tag == "a":
            self._open = (url.strip(), len(self._plain))
        else:
            self._links.append(Link(url.strip()))

    def _end_link(self) -> None:
        if self._open is None:
            return
        url, start = self._open
        self._open = None
        text = _tidy("".join(self._plain[start:])).replace("\n", " ")
        self._links.append(Link(url, text))
        if url and url != text and not url.startswith("#"):
            self._text.append(f" ({url})" if text else f" {url}")

    def _write(self, text: str) -> None:
        self._text.append(text)
        self._plain.append(text)


def _tidy(text: str) -> str:
    visible = _INVISIBLE.sub("", text)
    lines = (_BLANKS.sub(" ", line).strip() for line in visible.split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()
