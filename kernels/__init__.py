"""The float64 reference (the specification of every reduction), its torch twin, and the Triton kernels of simtile."""
