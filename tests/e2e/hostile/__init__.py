"""The hostile corpus: what is sent, and what must be on record of it afterwards."""
