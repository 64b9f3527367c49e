"""The commands of the command line, grouped by subject.

Modules that need torch are imported inside the commands that need them: listing runs must not wait
for torch.
"""
