"""Parts of the root types, one noun per file: put together in `schema/query.py` and its like."""
