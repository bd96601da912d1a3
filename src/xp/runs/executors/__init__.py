"""Executors, which run jobs somewhere: their protocol, the list of what was submitted, and the state of each job."""
