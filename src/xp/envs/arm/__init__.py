"""The embedded suite: an arm in MuJoCo, its tasks, scenes, initial states and scripted expert."""
