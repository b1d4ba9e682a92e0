"""Fields of a config's sections, each stated once (`fields.py`), and the table of them is `scoreflow_jax/sections.py`."""

PROCESS_FLAGS = ("coordinator", "num_processes", "process_id")
"""Flags of the command line that name the processes of a run where no scheduler does."""
