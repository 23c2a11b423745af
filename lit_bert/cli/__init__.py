"""The command line: parsers and settings."""
