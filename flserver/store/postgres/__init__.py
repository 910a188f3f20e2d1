"""All that is PostgreSQL's alone.

| module  | what it is                                                             |
| ------- | ---------------------------------------------------------------------- |
| engines | connections that write, that read, and that see one moment             |
| asking  | somebody's SQL, with its parameters, as one statement that only reads  |
| words   | what its errors say                                                    |
| roles   | a role that can read the views, and nothing else                       |
"""
