"""What a user can say in loading that no file of a folder does. Imports nothing."""

GRIPPERS = ("as_trained", "turned")
"""What `gripper` allows; see `sidecar.Notes`."""
OFT = {
    "chunk_length": "of an OpenVLA-OFT folder: actions of a chunk (NUM_ACTIONS_CHUNK)",
    "num_images_in_input": "of an OpenVLA-OFT folder: how many cameras it sees",
    "normalization": "of an OpenVLA-OFT folder: bounds_q99 or bounds, which statistics become -1 and +1",
    "use_proprio": "of an OpenVLA-OFT folder: false where it was trained without the robot's state",
    "use_l1_regression": "of an OpenVLA-OFT folder: false where it says actions as tokens, in one pass",
    "center_crop": "of an OpenVLA-OFT folder: false where it was trained without image_aug",
}
"""Of folders of OpenVLA-OFT; see `oft`."""
OPTIONS = {
    "unnorm_key": "whose statistics bring the actions to dataset units, where the folder has several",
    "tower_heads": "attention heads of both vision towers, where nothing in the folder says them",
    "base": "of an adapter the folder of its base, where that does not lie beside it",
    "gripper": "turned: trained on 0 (closed) to 1 (open), executed as 1 (closes) or -1 (opens); else as_trained",
    **OFT,
}
"""Of every folder of an OpenVLA."""
