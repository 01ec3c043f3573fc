"""The one place for private names and version tests of the libraries below, by what they are of.

Libraries are imported inside the functions: the process that composes the configuration imports
some of these modules too.
"""
