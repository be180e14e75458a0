"""The state of a worker's process: its cores and native threads, and what models change or leave open in it."""
