"""The command `import`. `cli.py` adds it to its own with `register(app)`; nothing heavy is imported before it runs.

Exit codes: 0 everything is in the log, 1 some rows are not (each is named), 2 nothing could be done, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from importer.progress import Tally
    from importer.run import ImportOptions, Plan

INCOMPLETE, MISTAKE, INTERRUPTED = 1, 2, 130


def register(app: typer.Typer) -> None:
    """Add `import` to a command line."""
    app.command("import")(import_events)


def import_events(
    file: Annotated[Path, typer.Argument(help="CSV or JSON Lines, plain or gzip.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="COLUMN=FIELD", help="Where a column goes: userId, properties.x, - to leave out."
        ),
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="COLUMN=TYPE", help="text, number or boolean (CSV).")
    ] = None,
    event: Annotated[str | None, typer.Option(help="One event type for all rows.")] = None,
    event_prefix: Annotated[str, typer.Option(help="Put before every event type, e.g. shop.")] = "",
    module: Annotated[str | None, typer.Option(help="Module of the events; analytics if absent.")] = None,
    timezone: Annotated[str, typer.Option(help="Of timestamps that name none, e.g. Europe/Berlin.")] = "UTC",
    timestamp_format: Annotated[str | None, typer.Option(help="As in strptime, e.g. '%d/%m/%Y %H:%M'.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the text, where it is not UTF-8, e.g. cp1252.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of CSV, where it is not found out. \\t is a tab.")] = None,
    url: Annotated[str | None, typer.Option(help="The gateway; that of `make run` if absent.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="SENDORA_API_KEY", help="API key; that of `make run` if absent.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=32, help="Requests at a time; 1 keeps the file's order.")] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the mapping and the first events, send nothing.")
    ] = False,
) -> None:
    """Load events from a file. Running it again stores nothing twice."""
    from importer.errors import ImportMistakeError
    from importer.run import ImportOptions

    options = ImportOptions(
        path=file,
        columns=columns or (),
        types=types or (),
        timezone=timezone,
        timestamp_format=timestamp_format,
        event_type=event,
        event_prefix=event_prefix,
        module=module,
        encoding=encoding,
        delimiter="\t" if delimiter == "\\t" else delimiter,
    )
    try:
        complete = _run(options, url=url, key=key, in_flight=in_flight, dry_run=dry_run)
    except ImportMistakeError as error:
        sys.stderr.write(f"sendora: {error}\n")
        raise typer.Exit(MISTAKE) from None
    except KeyboardInterrupt:
        sys.stderr.write("sendora: interrupted. Run it again to go on: what is stored is not stored twice.\n")
        raise typer.Exit(INTERRUPTED) from None
    if not complete:
        raise typer.Exit(INCOMPLETE)


def _run(options: ImportOptions, *, url: str | None, key: str | None, in_flight: int, dry_run: bool) -> bool:
    from importer.run import describe_mapping, prepare, preview

    if options.delimiter is not None and len(options.delimiter) != 1:
        from importer.errors import ImportMistakeError

        raise ImportMistakeError(f"--delimiter {options.delimiter!r} is not one character.")
    plan = prepare(options)
    try:
        if dry_run:
            typer.echo(preview(plan))
            return True
        typer.echo(describe_mapping(plan), err=True)
        tally = _send(plan, url=url, key=key, in_flight=in_flight)
    finally:
        plan.source.close()
    typer.echo(tally.summary())
    return tally.is_complete


def _send(plan: Plan, *, url: str | None, key: str | None, in_flight: int) -> Tally:
    import asyncio

    from importer.endpoint import find_endpoint
    from importer.run import send_file

    return asyncio.run(send_file(plan, find_endpoint(url, key), in_flight=in_flight))
