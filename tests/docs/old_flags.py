"""The flags of the scripts that docs/migration.md replaces: script -> flags."""

FLAGS = {
    "multi_horizon_finetune.py": "pretrained_path data_dir base_save_dir batch_size action_horizons "
    "num_steps freeze_transformer",
    "multi_horizon_predict.py": "base_model_dir data_dir training_horizons prediction_horizons "
    "num_trajectories batch_size output_dir",
    "run_multi_horizon_experiment.py": "pretrained_path data_dir base_save_dir output_dir batch_size "
    "action_horizons num_steps num_trajectories skip_finetuning "
    "skip_predictions",
    "lerobot-train": "policy.type dataset.repo_id output_dir policy.input_features steps "
    "save_freq batch_size policy.optimizer_lr policy.optimizer_lr_backbone "
    "policy.chunk_size policy.n_action_steps policy.use_vae "
    "policy.length_prefix_past policy.length_prefix_future policy.device "
    "policy.push_to_hub wandb.enable num_workers",
    "eval_offline_replay.py": "path_policy id_repo_dataset indices_episode path_output",
    "split_data.py": "source_path dst_path split_num seed",
    "dump_data.py": "dataset output",
    "arithmetic.py": "config data-path checkpoints output optimize_method num_iterations "
    "learning_rate weights weight_format use_gpu gpu_ids",
    "arithmetic_torch.py": "config data-path checkpoints output optimize_method num_iterations learning_rate weights",
    "finetune_openvla_chunked.py": "suite chunk-size epochs val-steps",
    "visualize_results.py": "run compare output",
    "evaluate_finetuned_chunked.py": "checkpoint",
    "self_improving_finetune.py": "pretrained_path robot_type reference_robot num_improvement_loops "
    "episodes_per_loop finetune_steps_per_loop output_dir "
    "max_steps_per_episode context_len batch_size lr seed",
    "save_vintix.py": "vintix_path robot_type parallel num_envs max_steps",
}
"""Flags without their dashes, in the order of the scripts' own pages."""

LINES = ("conda activate", "docker exec", "WANDB_MODE", "pip install safetensors", "PYTHONPATH")
"""Lines around those scripts that are no flags, and what names them in the page."""
