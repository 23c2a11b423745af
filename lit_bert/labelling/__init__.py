"""Which rows of a pool people label next, what they answer, and what that comes to."""
