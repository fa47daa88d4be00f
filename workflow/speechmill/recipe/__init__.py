"""A first recipe for a folder of recordings: what the folder contains, and the configuration that follows from it."""
