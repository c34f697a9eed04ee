"""A run of `route_file` in a process of its own, to be killed in the middle of it."""

import multiprocessing
import os
import signal
import sys

from unirouter_plugins.ray.files import route_file


def run_until(last, *given):
    """Run it in a process that is killed before its `last` step on the file system; return its exit status.

    One that is not killed ends with the number of its steps.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.plugins.onboarding.preloaded", __name__])
    process = context.Process(target=_run, args=(last, *given))
    process.start()
    process.join(300)
    return process.exitcode


def _run(last, *given):
    steps = 0

    def count(event, about):
        nonlocal steps
        if event in ("os.rename", "os.remove", "os.rmdir") or (event == "open" and ".parts" in str(about[0])):
            steps += 1
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    route_file(*given, replace=True, part_size=500)
    os._exit(steps)
