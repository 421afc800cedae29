"""Erasing people, and telling them what is kept of them."""
