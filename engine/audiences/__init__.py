"""Audiences: what they are, who belongs to them, and how that is kept up to date."""
