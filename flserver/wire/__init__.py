"""Bytes in, messages out. No IO, no torch, no numpy: nothing here can run what a peer sent."""
