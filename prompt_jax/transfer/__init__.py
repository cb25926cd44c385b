"""Prompts as the start of other prompts: SPoT, and prompts for another backbone."""
