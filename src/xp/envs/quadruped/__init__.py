"""Walking quadrupeds in MuJoCo, of primitive shapes or from an MJCF, with an expert that trots."""
