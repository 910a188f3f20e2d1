"""The strategies that come with the server, each one class in one file."""
