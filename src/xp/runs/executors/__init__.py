"""Ways of running jobs: the protocol, what was submitted, and how it stands."""
