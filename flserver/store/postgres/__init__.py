"""All that is PostgreSQL's alone.

| module  | what it is                                                             |
| ------- | ---------------------------------------------------------------------- |
| engines | connections that write, that read, and that see one moment             |
| asking  | somebody's SQL, with its parameters, as one statement that only reads  |
| words   | what its errors say                                                    |
| copies  | a record as an SQLite database, for verify                             |
| roles   | a role that can read the views, and nothing else                       |
"""
