"""The unified training set of the paper (section III-E) in the GSV-Cities layout: python -m datasets.prepare --help"""
