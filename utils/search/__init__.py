"""Search of codes and float descriptors, in memory and on disk; needs neither `datasets` nor `model`."""
