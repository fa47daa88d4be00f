"""The environment that every job inherits."""

import os


def set_for_jobs(library: str) -> None:
    """Let jobs find the library and share cores, and keep all but those that say otherwise off the network.

    The workflow calls it while it is read, which a job on a cluster does anew where it runs.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Threads that spin while they wait slow each other to a crawl where jobs share cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
