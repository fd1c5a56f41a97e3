"""The program ``dr-encoder``; Ctrl-C ends it without a traceback from here on, while its libraries load too."""

import signal
import sys


def main() -> None:
    """Run the command line."""
    try:
        from server_app.results.units import use_utf8  # noqa: PLC0415 - it takes a second, and may be interrupted
        from workbench.cli.main import app  # noqa: PLC0415

        use_utf8()
        app()
    except KeyboardInterrupt:  # of the imports; the commands tell it themselves
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    finally:  # who presses Ctrl-C while libraries clean up sees no traceback of theirs
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
