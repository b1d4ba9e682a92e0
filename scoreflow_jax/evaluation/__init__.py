"""What is measured of a model and of data, one part a file: each takes a model and settings and returns plain figures."""
