"""Text messages: who may get one, what it says, and what becomes of it."""
