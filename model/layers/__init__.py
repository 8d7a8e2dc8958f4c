"""The building blocks of a model, an idea a file."""
