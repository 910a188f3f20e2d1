"""The record as people read it, months later. Imports nothing slow at its door."""
