"""``alexnet-deploy``, and ``python -m alexnet_deploy``."""

import gc
import sys

from alexnet_deploy.machine.process import ended_by_sigterm


@ended_by_sigterm()
def run() -> None:
    """Run the command line; Ctrl-C while it is still loading ends it as quietly as later."""
    gc.disable()  # a command turns it on: see cli/collector.py
    try:
        from alexnet_deploy.cli import collector, main

        collector.is_ours = True
        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
