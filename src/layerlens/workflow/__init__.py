"""The commands in Python, each under its own name: what the command line calls, and nothing it does not.

A stage never imports another. Here, and only here, one stage's artifact becomes the next one's input.
"""
