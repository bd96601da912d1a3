"""`hydra/sweeper=staged`: experiments of several stages, and plain sweeps as one stage."""
