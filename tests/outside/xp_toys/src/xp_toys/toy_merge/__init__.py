"""A merge method of a closed form: later checkpoints count more."""
