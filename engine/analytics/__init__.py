"""Questions about what people did: funnels, retention, trends. Each is answered by one statement over the log."""
