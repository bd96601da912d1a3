"""The words that keys allow and that code below asks for by name: said once, for the schema and for who reads them."""

SCHEDULES = ("constant", "cosine", "linear_decay", "linear_warmup", "warmup_cosine")
"""`lr.schedule`: functions of `xp.training.schedules`."""
SCHEDULES_WITH_END = ("cosine", "linear_decay", "warmup_cosine")
"""Those whose rates depend on the total number of steps."""
HOLD, RESTART, STRETCH = EXTENSIONS = ("hold", "restart", "stretch")
"""`lr.extend`: what the rate does in steps that are added to a finished training."""
PRECISIONS = ("float32", "bfloat16")
"""`trainer.precision`, of the computation."""
ACCELERATORS = ("auto", "cpu", "gpu")
"""`trainer.accelerator`, for models in torch."""
STRATEGIES = ("auto", "ddp", "fsdp")
"""`trainer.strategy`: how several devices share the work of a model in torch."""
SHARDINGS = ("none", "data", "fsdp")
"""`trainer.sharding`: how several devices share the work of a model in JAX."""
SCALES = ("small", "full")
"""`experiment.scale`, of experiments that have two sizes."""
EXECUTIONS = ("receding", "ensembling", "blend", "blend_two", "real_time")
"""`chunk_size.execution`: how overlapping chunks become one action."""
CLOSED_LOOP_EXECUTIONS = ("receding", "ensembling", "real_time")
"""Those that a running env can be given."""
REPLAY_EXECUTIONS = EXECUTIONS[:4]
"""Those of the offline replay, whose delays are a mode of its own (`eval.modes`)."""
REPLAY_MODES = ("ground_truth", "self_chained", "delayed")
"""`eval.modes` of the offline replay: where the prefix of a query comes from."""
EVALS = ("closed_loop", "expert", "offline_replay", "returns")
"""What `task=eval` can measure: the options of the group `eval`, each with keys of its own."""
LABELS = ("executed", "intended")
"""What `task=collect` records as the expert's action where there is noise on it."""
