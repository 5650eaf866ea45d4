"""Number formats of the parts of a network: recipes, calibration, and the passes that write them into a graph."""
