"""HTTP in, pipeline call, HTTP out."""
