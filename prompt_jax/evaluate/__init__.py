"""Answers to metrics: within a run, of saved prompts, and of files."""
