"""A data format: a folder with an npz file for each episode."""
