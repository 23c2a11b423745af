"""What a model says of rows, and how sure its scores are."""
