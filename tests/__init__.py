"""The tests. What is set here counts for all libraries: nothing else of them is imported before."""

import os

import pytest

# Models as small as these gain nothing from threads, and on a busy machine wait for them. NumPy and torch read it when
# they load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a failed assert of a helper compared is shown as that of a test is.
pytest.register_assert_rewrite("tests.helpers", "tests.serving.running")
