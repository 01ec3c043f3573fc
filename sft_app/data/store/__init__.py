"""Tokenised examples on disk: made once by several processes, then memory-mapped by all."""
