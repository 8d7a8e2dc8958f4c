"""What goes beyond the paper, measured on a harder toy city and on small sets of real photographs."""
