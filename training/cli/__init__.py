"""The command line of training: ``commands`` lists the commands, each of which loads torch when it begins.

Nothing else of ``training`` imports from here.
"""
