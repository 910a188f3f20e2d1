"""The database's schema, one revision a file: the only DDL, the views' text included.

``flserver db upgrade`` and every start of the server bring a database to the newest revision, after a copy was made
beside it. ``flserver db downgrade`` is the way back that keeps what was recorded since; a revision's ``VIEWS`` are the
views that it made, anew or for the first time, and ``env.py`` makes them again on the way down.
"""
