"""Runnable documents: one file an experiment."""
