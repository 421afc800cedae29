"""Accounts with push services, mail relays and carriers: their settings, their secrets, and what is wrong with them."""
