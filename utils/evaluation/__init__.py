"""From a data set to recalls and result files."""
