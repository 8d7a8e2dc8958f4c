"""Places to train on: tables, cities, batches."""
