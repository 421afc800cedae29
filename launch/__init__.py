"""Everything on one machine: what `make run` starts, supervises and stops. Other deployments need none of it."""
