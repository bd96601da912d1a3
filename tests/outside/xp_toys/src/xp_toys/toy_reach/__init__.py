"""A simulated suite: a point in the plane has to reach a goal that only the camera shows."""
