"""Frozen jobs: identity, inputs, secrets, signature, the snapshot of the code, references to other stages."""
