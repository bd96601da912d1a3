"""RLDS folders of TensorFlow Datasets (Open X-Embodiment), as a data format that needs no TensorFlow."""
