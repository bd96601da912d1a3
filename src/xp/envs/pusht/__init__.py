"""PushT (`env=pusht`): a round agent pushes a T-shaped block to where its outline is drawn.

The task and its protocol are those of Chi et al., "Diffusion Policy", RSS 2023 (section V), after Florence et al.,
"Implicit Behavioral Cloning", CoRL 2021; the simulation is gym-pusht's. `suite.py` says what there is, `env.py`
simulates and draws, `expert.py` plans pushes with `search.py` and `paths.py` on the block's own physics (`pushing.py`,
`tee.py`).
"""
