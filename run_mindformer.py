"""Train, fine-tune and predict with MindFormers' command line: ``python run_mindformer.py --help``."""

import gc
import os
import sys
from pathlib import Path

from ms_impl.cli.arguments import judged, read_settings
from ms_impl.cli.main import command, save_reports_in
from ms_impl.launch.rank_environment import settle_ranks


@command
def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # of MindSpore's own log errors alone; it is read at the import
    if (status := judged()) is not None:
        return status
    settings = read_settings()
    save_reports_in(Path(settings.get("output_dir") or "output") / "log")
    for line in settle_ranks(bool(settings.get("use_parallel"))):
        print(line, flush=True)
    from ms_impl.plugin.run import run  # the slow import, once the settings are known to be good

    gc.freeze()  # what is imported stays: MindSpore looks for garbage before it compiles a graph, a second each time
    run(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
