"""`cli.py import FILE`: loads events from CSV or JSON Lines through the HTTP API of a running gateway.

    source.py    a file as rows, whatever its compression, encoding or delimiter
    mapping.py   which column goes where, and of which type (pure)
    events.py    a row as an event with an id that is the same whenever the row is read (pure)
    sender.py    batches over HTTP: several in flight, tried again until they are answered
    progress.py  how far it is, and what came of it
    command.py   the command itself

What is promised: running it again, after a crash in its middle too, stores nothing twice, because an event's id depends
on nothing but what is in its row (and, among identical rows, on which of them it is).
"""
