"""The training loop of JAX models."""
