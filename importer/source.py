"""A file as rows: CSV or JSON Lines, plain or gzip, UTF-8 or what its byte order mark says.

A row that cannot be read is a `BadRow` with its reason, and reading goes on; a file that cannot be read any further
raises `BrokenSourceError`. Nothing is held but the line at hand, so a file may be larger than memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from importer.errors import BrokenSourceError, ImportMistakeError

MAX_LINE_CHARACTERS = 1024 * 1024
"""Sixteen times the largest event: whatever is longer is no line of events."""

DELIMITERS = (",", ";", "\t", "|")

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is a ZIP or Excel file: export it as CSV, or unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard: unpack it first with `zstd -d`"),
    (b"BZh", "is compressed with bzip2: unpack it first with `bunzip2`"),
    (b"\xfd7zXZ\x00", "is compressed with xz: unpack it first with `unxz`"),
    (b"PAR1", "is a Parquet file: export it as CSV or JSON Lines"),
)
_GZIP = b"\x1f\x8b"
_PEEK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One record. `line` is where it starts, counted from 1; values of CSV are strings, of JSON Lines any JSON."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that cannot be read. `reason` completes the sentence `line 17: …`."""

    line: int
    reason: str


class Source:
    """An open file. `columns` are those of the CSV header, in its order; None for JSON Lines.

    `size` and `position` are bytes of the file as it lies on the disk, for showing progress; `size` is 0 when unknown.
    """

    def __init__(self, raw: BinaryIO, lines: _Lines, delimiter: str | None, *, size: int) -> None:
        self._raw = raw
        self._lines = lines
        self.size = size
        self.columns: tuple[str, ...] | None = None
        if delimiter is not None:
            self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
            self.columns = self._read_header()

    @property
    def is_csv(self) -> bool:
        """Whether values are text whose type is a guess."""
        return self.columns is not None

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._raw.tell()

    def rows(self) -> Iterator[Row | BadRow]:
        """The records in order, each once. Raises `BrokenSourceError`."""
        return self._read_json() if self.columns is None else self._read_csv(self.columns)

    def close(self) -> None:
        self._raw.close()

    def _read_header(self) -> tuple[str, ...]:
        try:
            names = tuple(name.strip() for name in next(self._reader, []))
        except csv.Error as error:
            raise ImportMistakeError(f"The header cannot be read as CSV ({error}).") from None
        repeated = sorted({name for name in names if name and names.count(name) > 1})
        if repeated:
            raise ImportMistakeError(f"The header has the column {repeated[0]!r} twice: rename one of the two.")
        return names

    def _read_csv(self, columns: tuple[str, ...]) -> Iterator[Row | BadRow]:
        while True:
            line = self._lines.number + 1
            try:
                cells = next(self._reader, None)
            except csv.Error as error:
                yield self._refuse_csv(line, str(error))
                continue
            if cells is None:
                return
            if cells:
                yield _csv_row(line, columns, cells)

    def _refuse_csv(self, line: int, reason: str) -> BadRow:
        if "unexpected end" in reason or "field limit" in reason:
            raise BrokenSourceError(f"Line {line}: a quote is opened and not closed, so nothing after it can be read.")
        return BadRow(line, "its quotes are not as CSV wants them; a quote inside quotes is doubled")

    def _read_json(self) -> Iterator[Row | BadRow]:
        for text in self._lines:
            if text.strip():
                yield _json_row(self._lines.number, text)


class _Lines:
    """The lines of a text, their ends included. `number` is that of the last line handed out."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) >= MAX_LINE_CHARACTERS:
            raise BrokenSourceError(f"Line {self.number} is longer than {MAX_LINE_CHARACTERS:,} characters.")
        return line

    def _read(self) -> str:
        try:
            return self._text.readline(MAX_LINE_CHARACTERS)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BrokenSourceError(
                f"After line {self.number} the gzip data is cut off or damaged ({error})."
            ) from None
        except UnicodeError as error:
            reason = f"After line {self.number} the text is not in its encoding ({error})."
            raise BrokenSourceError(f"{reason} Name the right one with --encoding.") from None
        except OSError as error:
            raise BrokenSourceError(f"After line {self.number} the file cannot be read ({error.strerror}).") from None


def open_source(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> Source:
    """Open a file and find out what it is. Raises `ImportMistakeError`."""
    try:
        raw = path.open("rb")
        size = path.stat().st_size
    except OSError as error:
        raise ImportMistakeError(f"{path} cannot be opened ({error.strerror}).") from None
    try:
        return _recognise(raw, size, encoding=encoding, delimiter=delimiter)
    except (ImportMistakeError, BrokenSourceError) as error:
        raw.close()
        raise ImportMistakeError(f"{path}: {error}") from None
    except BaseException:
        raw.close()
        raise


def _recognise(raw: io.BufferedReader, size: int, *, encoding: str | None, delimiter: str | None) -> Source:
    packed = raw.peek(2).startswith(_GZIP)
    content = _unpacked(raw) if packed else raw
    start = _peek(content)
    _refuse_other_formats(start)
    chosen = encoding or _encoding_of(start)
    first = _first_line(start, chosen)
    lines = _Lines(_open_text(content, chosen))
    if first.startswith("{") and delimiter is None:
        return Source(raw, lines, None, size=size)
    return Source(raw, lines, delimiter or _sniff_delimiter(first), size=size)


def _unpacked(raw: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)))


def _peek(content: io.BufferedReader) -> bytes:
    try:
        start = content.peek(_PEEK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImportMistakeError(f"The gzip data is cut off or damaged ({error}).") from None
    if not start.strip():
        raise ImportMistakeError("The file is empty.")
    return start


def _refuse_other_formats(start: bytes) -> None:
    for mark, reason in _OTHER_FORMATS:
        if start.startswith(mark):
            raise ImportMistakeError(f"It {reason}.")


def _encoding_of(start: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    if b"\x00" in start:
        raise ImportMistakeError(
            "It is not text: there are NUL bytes at its start. If it is UTF-16, say so: --encoding."
        )
    return "utf-8"


def _open_text(content: io.BufferedReader, encoding: str) -> io.TextIOWrapper:
    """Bytes that are not UTF-8 become lone surrogates, so that they cost their own row only."""
    lenient = encoding.lower().replace("_", "-") in ("utf-8", "utf-8-sig", "utf8")
    try:
        return io.TextIOWrapper(content, encoding, errors="surrogateescape" if lenient else "strict", newline="")
    except LookupError:
        raise ImportMistakeError(f"There is no encoding {encoding!r}: try utf-8, latin-1 or cp1252.") from None


def _first_line(start: bytes, encoding: str) -> str:
    try:
        text = start.decode(encoding, errors="replace").lstrip("\ufeff \t\r\n")
    except LookupError:
        return ""
    if text.startswith("["):
        raise ImportMistakeError("It is a JSON array: write one object a line instead, e.g. with `jq -c '.[]'`.")
    return text.splitlines()[0] if text else ""


def _sniff_delimiter(header: str) -> str:
    counts = {delimiter: _outside_quotes(header).count(delimiter) for delimiter in DELIMITERS}
    return max(counts, key=lambda delimiter: counts[delimiter])


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _csv_row(line: int, columns: tuple[str, ...], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(columns):
        return BadRow(line, f"it has {len(cells)} cells and the header has {len(columns)}")
    if not _is_unicode("".join(cells)):
        return BadRow(line, _NOT_UTF8)
    return Row(line, {name: cell for name, cell in zip(columns, cells, strict=True) if name})


_NOT_UTF8 = "it is not UTF-8; if the whole file is in another encoding, name it, e.g. --encoding cp1252"


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _json_row(line: int, text: str) -> Row | BadRow:
    if not _is_unicode(text):
        return BadRow(line, _NOT_UTF8)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return BadRow(line, f"it is not JSON ({error})")
    if not isinstance(value, dict):
        return BadRow(line, "it is JSON, but not an object")
    return Row(line, value)
