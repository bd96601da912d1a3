"""Octo's folders: weights, configuration, statistics, and how they fit a new model."""
