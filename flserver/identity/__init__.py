"""Who a peer is, and which clients it may speak for. Imports nothing at its door."""
