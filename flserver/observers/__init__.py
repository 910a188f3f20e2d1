"""What watches the run and never decides: metrics, health and the console.

histogram.py   a histogram that can be loaded with old observations
tally.py       the numbers of the current run, from its events
metrics.py     the numbers as Prometheus metrics: the only import of prometheus_client
health.py      what /healthz says
http.py        /metrics and /healthz over HTTP
log_lines.py   events as lines for an operator
console.py     those lines in a log, or live on a terminal
"""
