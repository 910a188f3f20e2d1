"""Evidence of a run or a round, for who has neither the database nor flserver: a zip that ``verify.py`` can check.

That file is the one of this package that leaves the house, so it imports nothing of ours. What follows from the events
it computes, for the maker too: what a bundle says and what is checked of it cannot differ.
"""
