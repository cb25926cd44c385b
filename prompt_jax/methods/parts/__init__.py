"""What several methods are made of: how rows begin, and small networks."""
