"""What other services send to a project: proof of who sent it, and storing it as an event."""
