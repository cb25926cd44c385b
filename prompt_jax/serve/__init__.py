"""A server of prompts: the engine, and what speaks HTTP for it."""
