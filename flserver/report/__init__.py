"""A run as one page for people: what the record says, drawn, in a file that needs nothing beside it."""
