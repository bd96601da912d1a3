"""The words that keys allow and that code below asks for by name: said once, for the schema and for who reads them."""

SCHEDULES = ("constant", "cosine", "linear_warmup")
"""`lr.schedule`: functions of `xp.training.schedules`."""
PRECISIONS = ("float32", "bfloat16")
"""`trainer.precision`, of the computation."""
ACCELERATORS = ("auto", "cpu", "gpu")
"""`trainer.accelerator`, for models in torch."""
STRATEGIES = ("auto", "ddp", "fsdp")
"""`trainer.strategy`: how several devices share the work of a model in torch."""
SHARDINGS = ("none", "data", "fsdp")
"""`trainer.sharding`: how several devices share the work of a model in JAX."""
EXECUTIONS = ("receding", "ensembling", "blend", "blend_two")
"""`chunk_size.execution`: how overlapping chunks become one action."""
CLOSED_LOOP_EXECUTIONS = EXECUTIONS[:2]
"""Those that a running env can be given."""
REPLAY_MODES = ("ground_truth", "self_chained", "delayed")
"""`eval.modes` of the offline replay: where the prefix of a query comes from."""
