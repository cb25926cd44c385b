"""Pictures and measurements of what was trained."""
