"""A file becomes rows, whatever its compression, encoding or delimiter; what cannot be read is named with its line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from importer.errors import BrokenSourceError, ImportMistakeError
from importer.source import MAX_LINE_CHARACTERS, BadRow, Row, open_source

CSV = "user_id,event\nada,home\nbob,cart\n"
ROWS = [Row(2, {"user_id": "ada", "event": "home"}), Row(3, {"user_id": "bob", "event": "cart"})]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: str | bytes, name: str = "events") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def read(path: Path, **options: Any) -> list[Row | BadRow]:
    source = open_source(path, **options)
    try:
        return list(source.rows())
    finally:
        source.close()


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode(),
        CSV.replace(",", ";").encode(),
        CSV.replace(",", "\t").encode(),
        CSV.replace(",", "|").encode(),
        CSV.replace("\n", "\r\n").encode(),
        CSV.rstrip("\n").encode(),  # no end of the last line
        CSV.encode("utf-8-sig"),
        CSV.encode("utf-16"),
        gzip.compress(CSV.encode(), mtime=0),
        gzip.compress(CSV.encode("utf-8-sig"), mtime=0),
        b'"user_id","event"\n"ada","home"\n"bob","cart"\n',
        b" user_id , event \nada,home\nbob,cart\n",
    ],
)
def test_csv_is_read_however_it_was_written(write: Any, content: bytes) -> None:
    source = open_source(write(content))
    rows = list(source.rows())
    position = source.position
    source.close()

    assert source.columns == ("user_id", "event")
    assert rows == ROWS
    assert position == source.size == len(content)


def test_a_delimiter_inside_quotes_does_not_count(write: Any) -> None:
    rows = read(write('event;"a,b,c,d"\nhome;"x;""y"""\n'))

    assert rows == [Row(2, {"event": "home", "a,b,c,d": 'x;"y"'})]


def test_a_quoted_line_break_keeps_later_lines_counted(write: Any) -> None:
    rows = read(write('event,note\nhome,"two\nlines"\ncart,one\n'))

    assert rows == [Row(2, {"event": "home", "note": "two\nlines"}), Row(4, {"event": "cart", "note": "one"})]


def test_json_lines_are_read_as_they_are(write: Any) -> None:
    rows = read(write(gzip.compress(b'{"event":"home","n":[1]}\n\n{"event":"cart","n":9007199254740993}\n')))

    assert rows == [Row(1, {"event": "home", "n": [1]}), Row(3, {"event": "cart", "n": 9007199254740993})]


def test_another_encoding_can_be_named(write: Any) -> None:
    assert read(write("event\ncafé\n".encode("cp1252")), encoding="cp1252") == [Row(2, {"event": "café"})]


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (b"a,b\n1,2\n1\n1,2\n", BadRow(3, "it has 1 cells and the header has 2")),
        (b"a,b\n1,2\n1,2,3\n1,2\n", BadRow(3, "it has 3 cells and the header has 2")),
        (
            b"a,b\n1,2\n1,caf\xe9\n1,2\n",
            BadRow(3, "it is not UTF-8; if the whole file is in another encoding, name it, e.g. --encoding cp1252"),
        ),
        (
            b'a,b\n1,2\n1,"x"y\n1,2\n',
            BadRow(3, "its quotes are not as CSV wants them; a quote inside quotes is doubled"),
        ),
        (b'{"a":1}\n{"a":1}\n[1]\n{"a":1}\n', BadRow(3, "it is JSON, but not an object")),
        (b'{"a":1}\n{"a":1}\n{"a":\n{"a":1}\n', BadRow(3, "it is not JSON (Input data was truncated)")),
        (b'{"a":1}\n{"a":1}\n' + b'{"a":' * 5000 + b'\n{"a":1}\n', None),  # nested beyond all bounds
    ],
)
def test_a_row_that_cannot_be_read_costs_only_itself(write: Any, content: bytes, bad: BadRow | None) -> None:
    rows = read(write(content))

    assert [type(row) for row in rows].count(Row) == (3 if content.startswith(b"{") else 2)
    assert [row for row in rows if isinstance(row, BadRow)] == ([bad] if bad else rows[2:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,2\n3,"4\n5,6\n', "Line 3: a quote is opened and not closed, so nothing after it can be read."),
        (
            b"a,b\n1,2\n" + b"x" * MAX_LINE_CHARACTERS + b"\n",
            f"Line 3 is longer than {MAX_LINE_CHARACTERS:,} characters.",
        ),
        (
            gzip.compress(b"a,b\n1,2\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(9000)), mtime=0)[:-200],
            r"After line \d{4} the gzip data is cut off or damaged \(Compressed file ended before",
        ),
    ],
)
def test_what_comes_before_a_break_is_read(write: Any, content: bytes, message: str) -> None:
    source = open_source(write(content))
    rows = source.rows()

    first = next(rows)
    with pytest.raises(BrokenSourceError, match=message):
        list(rows)
    source.close()

    assert first == Row(2, {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is empty."),
        (b"\n\n", "The file is empty."),
        (gzip.compress(b"", mtime=0), "The file is empty."),
        (b"PK\x03\x04rest", "It is a ZIP or Excel file: export it as CSV, or unpack it first."),
        (b"\x28\xb5\x2f\xfdrest", "It is compressed with Zstandard: unpack it first with `zstd -d`."),
        (b"\x00\x01\x02", "It is not text: there are NUL bytes at its start. If it is UTF-16, say so: --encoding."),
        (b"\x1f\x8b\x08\x00broken", "The gzip data is cut off or damaged"),
        (b'[{"event":"home"}]', "It is a JSON array: write one object a line instead, e.g. with `jq -c '.[]'`."),
        (b"a,b,a\n1,2,3\n", "The header has the column 'a' twice: rename one of the two."),
        (b'a,"b\n1,2\n', "The header cannot be read as CSV"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_a_sentence(write: Any, content: bytes, message: str) -> None:
    path = write(content)

    with pytest.raises(ImportMistakeError) as caught:
        open_source(path)

    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_and_an_unknown_encoding_are_named(tmp_path: Path, write: Any) -> None:
    with pytest.raises(ImportMistakeError, match=r"nowhere.csv cannot be opened \(No such file or directory\)"):
        open_source(tmp_path / "nowhere.csv")
    with pytest.raises(ImportMistakeError, match="There is no encoding 'klingon'"):
        open_source(write(CSV), encoding="klingon")
    with pytest.raises(BrokenSourceError, match=r"After line \d+ the text is not in its encoding .*--encoding"):
        read(write(b"event\n" + b"home\n" * 9000 + b"\xd8"), encoding="ascii")
