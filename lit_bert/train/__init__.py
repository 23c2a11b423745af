"""A training run: what it keeps, shows and chooses."""
