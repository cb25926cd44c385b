"""A backbone string to a frozen T5: reading, writing and naming weights."""
