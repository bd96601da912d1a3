"""One module per task, each with `run(run)`: the only place that wires parts together."""
