"""Liquid templates: what customers write, filled in with what is known of a person and an event."""
