"""The record: the only home of SQL.

| module   | what it is                                                                    |
| -------- | ----------------------------------------------------------------------------- |
| chain    | PURE: digests, and the hash chain over the events                             |
| payloads | PURE: an event as the text that is kept, canonical JSON, and back             |
| tables   | the tables, for statements; their DDL, and the views', is in migrations       |
| database | the door: what a database is to everybody, whichever program keeps it         |
| sqlite_database | SQLite's, behind the door                                              |
| sqlite   | all that is SQLite's: how the file is opened and copied, what its errors say  |
| wal      | its write-ahead log: begun, left, looked into                                 |
| lock     | who has the database, one server at a time; how far its record had come       |
| schema   | the file's schema: made, upgraded or refused                                  |
| prepared | statements for many rows at once, made once in a process                      |
| derive   | the rows that follow from an event; its modules mirror those of events/       |
| purge    | payloads, and text from outside that rests on them, removed for good          |
| ranges   | PURE: a set of numbers                                                        |
| replay   | all derived tables, made anew from the record                                 |
| scratch  | a copy of a database, and empty tables beside it to derive into               |
| transfer | rows copied from one database into another, as they stand                     |
| compare  | a record's tables held against those derived                                  |
| tree     | the Merkle tree over the events' digests, as the database has it              |
| appending | what a transaction appends: events, what follows, a signed head              |
| backlog  | PURE: what waits for its transaction, and who may add to it                   |
| writer   | the one thread that writes                                                    |
| recording, sqlite_recording | what it writes with: one connection, from its opening to its end |
| reader   | everything that is read, through a connection that cannot write               |
| tree_reader | what heads and proofs are made of                                          |
| snapshot | a reader whose answers are all of one moment                                  |
| totals   | a run's sums, from which /metrics goes on after a restart                     |
"""
