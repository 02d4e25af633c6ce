"""Train, fine-tune and predict with MindFormers' command line: ``python run_mindformer.py --help``."""

import sys
from pathlib import Path

from ms_impl.cli.arguments import read_settings
from ms_impl.cli.check import check
from ms_impl.cli.main import command, save_reports_in


@command
def main() -> int:
    settings = read_settings()
    if settings["run_mode"] == "check":
        return check(settings)
    save_reports_in(Path(settings.get("output_dir") or "output") / "log")
    from ms_impl.plugin.run import run  # the slow import, once the settings are known to be good

    run(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
