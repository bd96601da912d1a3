"""`hydra/launcher=slurm`: an experiment's stages as dependent job arrays of a SLURM cluster, submitted at once."""
