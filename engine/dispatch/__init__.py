"""Deliveries: what is to be sent, whether it may be, when, and what became of it."""
