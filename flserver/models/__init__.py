"""A model: its architecture, tensors, data and files. Imports nothing at its door: torch is slow."""
