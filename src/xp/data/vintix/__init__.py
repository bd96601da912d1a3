"""Trajectories with rewards as Vintix stores them: HDF5 files of learning histories beside a JSON description."""
