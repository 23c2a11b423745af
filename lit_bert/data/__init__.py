"""Labelled text: from rows in files to batches of token ids."""
