"""Workflows: journeys that run on events."""
