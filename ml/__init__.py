"""Features, models, training and evaluation of the load forecast."""
