"""A Ray cluster, and nothing of what runs there: a server asks it for nodes, and a fleet for its parts."""
