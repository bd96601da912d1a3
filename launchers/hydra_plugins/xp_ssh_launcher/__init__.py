"""`hydra/launcher=ssh`: jobs on machines that are reached by ssh alone, without shared files and without a daemon."""
