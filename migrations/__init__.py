"""The database's schema, one revision a file: the only DDL, the views' text included.

``flserver db upgrade`` and every start of the server bring a database to the newest revision, after a copy was made
beside it. There are no downgrades: the copy is the way back.
"""
