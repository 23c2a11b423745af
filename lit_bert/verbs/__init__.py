"""One module a verb: from its arguments to an exit code."""
