"""Vintix: an action model that learns in context from trajectories with rewards (dunnolab/vintix and its forks)."""
