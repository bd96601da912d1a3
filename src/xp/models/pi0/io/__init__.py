"""The folders of pi0: openpi's `STEP/params` and `STEP/assets`, and xp's notes beside them."""
