"""Email: who may send it, what it may say, what it is made of, and what becomes of it."""
