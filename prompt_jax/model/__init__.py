"""The T5 and what it computes with: bundles, caches, quantised weights, meshes."""
