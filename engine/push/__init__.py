"""Push: who may be sent to and when, with which words, and what is kept of devices."""
