"""Long-running work besides serving: each worker is `run()` around `step()`."""
