"""Several datasets as one training set: who is drawn when, what a batch of them is, whose statistics count where."""
