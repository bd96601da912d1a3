"""LIBERO's demonstrations in its own HDF5 files, as a data format."""
