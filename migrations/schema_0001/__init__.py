"""The tables, triggers and views that revision 0001 creates.

They are never edited after a release: a later revision states its own.
"""
