"""A run's folder: its record, logs, lock and heartbeat."""
