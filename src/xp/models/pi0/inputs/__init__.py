"""The way in and out of pi0: pictures, prompts, states and actions, in numpy."""
