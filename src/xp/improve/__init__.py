"""Improving a policy by its own attempts: which of them it learns from, and learning from them."""
