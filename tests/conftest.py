"""What all tests share; pytest puts this folder on the path, so that `material` and `hub_server` can be imported."""

import os

import hypothesis

# Before any library of Hugging Face is imported: a test that asks the network for something is a broken test.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# The machine that runs the tests may be slow; that is no fault of what is tested.
hypothesis.settings.register_profile("speechmill", deadline=None, max_examples=100)
hypothesis.settings.load_profile("speechmill")
