"""``python -m training``."""

import sys

from alexnet_deploy.machine.process import ended_by_sigterm


@ended_by_sigterm()
def run() -> None:
    """Run the command line; Ctrl-C while it is still loading ends it as quietly as later."""
    try:
        from training.cli.commands import exit_with, main

        exit_with(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
