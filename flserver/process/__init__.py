"""A server process, from start to exit: launch → which_run → prepare → app → first_entries.

Imports nothing at its door: torch is slow, and the port is opened before it is in.
"""
