"""End users of host apps: who they are, their sessions, and what proves both."""
