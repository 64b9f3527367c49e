"""Other recorders, each run in its own environment, and the code that installs and runs them.

The modules that run in such an environment import nothing of tokentape.
"""
