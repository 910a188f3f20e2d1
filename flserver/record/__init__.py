"""The record as people read it: what a run was, held beside others. Imports nothing slow at its door."""
