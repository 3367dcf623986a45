"""Small runnable examples: `python -m examples.<name>` in the repository's folder."""
