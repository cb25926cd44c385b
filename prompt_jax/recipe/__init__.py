"""Recipes: gin files and bindings become one checked object. The only room that knows gin."""
