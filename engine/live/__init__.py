"""The live side of the log: Redis pub/sub, the hub that follows projects, cohorts that share work, streams."""
