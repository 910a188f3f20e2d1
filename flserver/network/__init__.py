"""Trainers' connections, from accept to goodbye: sockets, threads, and what one peer may cost the others."""
