"""`hydra/launcher=local`: jobs on this machine, in a pool of warm worker processes."""
