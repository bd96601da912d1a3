"""Walking quadrupeds in MuJoCo, made of primitive shapes from the numbers in conf/env, with an expert that trots."""
