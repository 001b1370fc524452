"""The paper's experiments: grids of methods, labels and amounts of data, and their tables."""
