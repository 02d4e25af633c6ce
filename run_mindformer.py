"""Train, fine-tune and predict with MindFormers' command line: ``python run_mindformer.py --help``."""

import sys

from ms_impl.cli.arguments import read_settings
from ms_impl.cli.check import check
from ms_impl.cli.console import print_anything
from ms_impl.errors import InputError


def main() -> int:
    print_anything()
    try:
        settings = read_settings()
        if settings["run_mode"] == "check":
            return check(settings)
        from ms_impl.plugin.run import run  # the slow import, once the settings are known to be good

        run(settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
