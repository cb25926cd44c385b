"""Prompts as data: where their rows stand, whose they are, how they lie on disk."""
