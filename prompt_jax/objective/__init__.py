"""What is minimised, and what happens to its gradient."""
