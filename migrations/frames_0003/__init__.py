"""The views that revision 0003 makes: texts of tokens, messages, interventions, activations.

They are frozen, like the migration that uses them.
"""
