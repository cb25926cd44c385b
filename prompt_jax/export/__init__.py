"""Prompts out to other programs and in from them, compared before they count."""
