"""Ways to adapt a frozen model, one per file."""
