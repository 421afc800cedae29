"""Asking models: what a workflow's step wants written, decided or extracted."""
