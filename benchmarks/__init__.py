"""What the figures in docs/benchmarks are measured with; beside the package, not in its wheel."""
