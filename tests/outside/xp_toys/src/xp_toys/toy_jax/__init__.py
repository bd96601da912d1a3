"""A model family in JAX: chunks by flow matching."""
