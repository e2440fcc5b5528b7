"""``python -m alexnet_deploy`` is ``alexnet-deploy``."""

from alexnet_deploy.cli import main

main()
