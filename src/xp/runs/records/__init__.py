"""A run's folder: its record, logs, lock and signs of life."""
