"""Setup of all tests; pytest adds this folder to the path, so that tests can import `material` and `hub_server`."""

import os

import hypothesis

# Set before any Hugging Face library is imported: tests must not use the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# No deadline, because the machine that runs the tests may be slow.
hypothesis.settings.register_profile("speechmill", deadline=None, max_examples=100)
hypothesis.settings.load_profile("speechmill")
