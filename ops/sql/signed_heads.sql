-- Which heads of the record were signed, and when?
-- The newest first: how many events it is of, the root of their tree, and the key. flserver prove and witness use them.
-- No rows: nothing was signed (--sign-key).
SELECT at, process_id, size, root, key, event_seq
FROM v1_heads
WHERE run_id = :run_id
ORDER BY event_seq DESC;
