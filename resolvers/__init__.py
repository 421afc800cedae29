"""Who asks, and which call answers: functions of a context and plain arguments that return records."""
