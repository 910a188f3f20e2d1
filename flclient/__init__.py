"""The trainer: takes part in a run of flserver, or of any server that speaks its protocol."""
