"""`cli.py bundle export|plan|apply`: workflows and audiences in a file, for git and CI, through the HTTP API.

    files.py    a bundle in a file or on standard input and output, in its canonical form
    client.py   exportWorkflows and importWorkflows of a running gateway
    changes.py  what differs between two bundles, in lines for people (pure)
    command.py  the commands themselves

What is promised: `plan` changes nothing and says what `apply` would do, as the gateway itself sees it; `apply` does all
of it or nothing. Both are the gateway's doing: nothing here knows what a workflow is.
"""
