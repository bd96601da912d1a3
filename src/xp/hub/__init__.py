"""Repositories of a Hugging Face Hub: their ids, the commits that they stand for, and what is downloaded of them.

By huggingface_hub: its cache, tokens, mirrors (HF_ENDPOINT) and offline mode (HF_HUB_OFFLINE) hold here too. It is
imported where an id of a hub is given, and nowhere else.
"""
