"""Octo's folders: reading and writing weights, configuration and statistics, and fitting weights to a new model."""
