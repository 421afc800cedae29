"""What is stored: SQL and rows only. No decisions, and nothing of ours imported."""
