"""A trained model for others: exported folder, predictor, server."""
