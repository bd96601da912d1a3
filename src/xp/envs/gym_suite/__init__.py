"""Any gymnasium env that follows LeRobot's conventions as a suite (`env=gymnasium env.id=...`).

`suite.py` says what is asked, `registered.py` makes the env and refuses what does not follow the conventions, `env.py`
gives it the protocol of `xp.envs.suite`. gymnasium is imported when the first env is made.
"""
