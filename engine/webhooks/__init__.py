"""Webhooks: endpoints of the customer's, what is signed how, and what of the log goes where."""
