"""Fleets that are not there: a script of what many trainers do, and processes that each play a part of it."""
