"""The record: the only home of SQL.

| module     | what it is                                                                                     |
| chain      | PURE: canonical JSON, digests, the hash chain over the events                                   |
| payloads   | PURE: an event as the text that is kept, and back                                               |
| tables     | the tables for statements; their DDL, and the views', is in migrations                          |
| database   | how the file is opened, for writing or for reading, and the lock that keeps a second server out |
| schema     | the file's schema: made, upgraded or refused                                                    |
| derive     | the rows that follow from an event; derive_rounds: those of rounds and updates                  |
| rows       | the few statements that derivations are made of                                                 |
| writer     | the one thread and connection that write                                                        |
| reader     | everything that is read, through a connection that cannot write                                 |
| totals     | a run's sums, from which /metrics goes on after a restart                                       |
"""
