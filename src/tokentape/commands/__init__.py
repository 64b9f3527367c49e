"""What the command line can do, a family of commands a file.

What needs torch is imported where it is used: who lists runs should not wait for it.
"""
