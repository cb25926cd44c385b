"""Whether a recipe fits hardware that is not at hand: the real step, compiled and read."""
