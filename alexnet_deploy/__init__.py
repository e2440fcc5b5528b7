"""From a folder of labelled photos to an AlexNet engine one can trust.

The command line is ``alexnet-deploy`` (``alexnet_deploy.cli``); its stages are functions from file to file, one
module each. Importing the package loads nothing heavy.
"""

__version__ = "0.1.0"
