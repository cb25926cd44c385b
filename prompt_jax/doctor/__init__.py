"""Whether a recipe would run here."""
