"""What a process of the worker has of its machine: cores, native threads, and what models change or leave open in it."""
