"""The command line: what is typed and what is printed. A command calls a function that does the work."""
