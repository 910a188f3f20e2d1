"""What is taken out of the record, and the record held against itself. Imports nothing at its door."""
